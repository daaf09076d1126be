"""`luthier generate RUN [PROMPT]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from luthier.cli.options import model_argument, print_json, runs_option, sampling_of, sampling_options, writer_of


@click.command(name="generate")
@model_argument
@click.argument("prompts", nargs=-1)
@sampling_options
@click.option("--candidates", type=click.IntRange(1), default=1, show_default=True, help="Answers for each prompt.")
@click.option("--logprobs", is_flag=True, help="With --json: the log-probability of each token.")
@click.option("--schema", type=click.Path(path_type=Path), help="Answer in JSON by this JSON schema file.")
@click.option("--choice", "choices", multiple=True, help="Answer with one of these; give it several times.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@runs_option
def command(
    model: str,
    prompts: tuple[str, ...],
    candidates: int,
    logprobs: bool,
    schema: Path | None,
    choices: tuple[str, ...],
    as_json: bool,
    root: Path,
    **sampling: object,
) -> None:
    """Write with MODEL (a run, a folder or an alias such as starter) for PROMPTS, or for standard input.

    A model trained on conversations takes a prompt as a user's message; others continue it.
    """
    if schema and choices:
        raise click.UsageError("give --schema or --choice, not both")
    asked = list(prompts)
    if not asked:
        if sys.stdin.isatty():
            raise click.UsageError("nothing to write about: give a prompt, or text on standard input")
        asked = [sys.stdin.read().rstrip("\n")]
    chosen = sampling_of(sampling, candidates=candidates, logprobs=logprobs)
    writer = writer_of(model, root)
    constraint = None
    if schema or choices:
        from luthier.inference.constraint import compile_constraint

        constraint = compile_constraint(writer.tokenizer, schema=_schema(schema) if schema else None, choices=choices or None)
    if len(asked) == 1 and candidates == 1 and not as_json:
        for piece in writer.stream(asked[0], chosen, constraint=constraint):
            click.echo(piece, nl=False)
        click.echo()
        return
    answers = writer.write(asked, chosen, constraint=constraint)
    if as_json:
        print_json([{"prompt": p, "answers": [vars(w) for w in a]} for p, a in zip(asked, answers, strict=True)])
        return
    for prompt, written in zip(asked, answers, strict=True):
        for number, answer in enumerate(written, 1):
            title = prompt if candidates == 1 else f"{prompt}  [{number}]"
            click.secho(title, bold=True)
            click.echo(answer.text + "\n")


def _schema(path: Path) -> dict[str, object]:
    from luthier.errors import LuthierError

    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise LuthierError(f"is no JSON schema: {error}", where=str(path), remedy="give a JSON file with a schema object") from None
    if not isinstance(found, dict):
        raise LuthierError("is no JSON schema: not an object", where=str(path))
    return found
