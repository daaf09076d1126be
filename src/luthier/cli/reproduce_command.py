"""`luthier reproduce RUN`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import run_argument, runs_option, the_run


@click.command(name="reproduce")
@run_argument
@runs_option
def command(run: str, root: Path) -> None:
    """Train RUN again from its record and say what came out the same."""
    found = the_run(run, root)
    from luthier.cli.screen import Screen, console
    from luthier.workflow.train import reproduce

    with Screen() as screen:
        again, result = reproduce(found, listener=screen)
    for name in ("same_data", "same_log", "same_weights"):
        console.print(f"{name.replace('_', ' '):<14}{'yes' if result[name] else 'no'}", highlight=False)
    before, after = result["score"]["before"], result["score"]["again"]
    console.print(f"{before['metric']:<14}{before['value']:.4f} before, {after['value']:.4f} again", highlight=False)
    for package, (old, new) in result["versions"].items():
        console.print(f"{package} was {old}, is {new}", highlight=False)
    console.print(f"run           {again.folder}", highlight=False, soft_wrap=True)
