"""`luthier chat RUN`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from luthier.cli.options import model_argument, runs_option, sampling_of, sampling_options, writer_of


@click.command(name="chat")
@model_argument
@click.option("--system", help="A system message to begin with.")
@sampling_options
@runs_option
def command(model: str, system: str | None, root: Path, **sampling: object) -> None:
    """Talk with MODEL (a run, a folder or an alias such as starter) in the terminal.

    /new begins anew, /quit (or the end of input) leaves.
    """
    chosen = sampling_of(sampling)
    writer = writer_of(model, root)
    first: list[dict[str, Any]] = [{"role": "system", "content": system}] if system else []
    messages = list(first)
    terminal = sys.stdin.isatty()
    if terminal:
        click.secho(f"{model}: /new begins anew, /quit leaves", dim=True)
    while True:
        try:
            said = input("you  ") if terminal else input()
        except EOFError:
            return
        if not said.strip():
            continue
        if said.strip() == "/quit":
            return
        if said.strip() == "/new":
            messages = list(first)
            continue
        messages.append({"role": "user", "content": said})
        answer = ""
        from luthier.errors import LuthierError

        try:
            for piece in writer.stream(messages, chosen):
                answer += piece
                click.echo(piece, nl=False)
        except LuthierError as error:
            messages.pop()
            click.secho(f"{error}\n(/new begins anew)", fg="yellow", err=True)
            continue
        click.echo()
        messages.append({"role": "assistant", "content": answer.strip() or "..."})
