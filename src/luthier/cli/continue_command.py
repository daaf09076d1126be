"""`luthier continue RUN --epochs 3`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import run_argument, runs_option, set_option, the_run


@click.command(name="continue")
@run_argument
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), required=True, help="How many epochs more.")
@set_option
@runs_option
def command(run: str, epochs: float, overrides: tuple[str, ...], root: Path) -> None:
    """Train RUN's model longer, as a new run with RUN as its parent."""
    found = the_run(run, root)
    from luthier.cli.screen import Screen, show_run
    from luthier.workflow.train import continue_run

    with Screen() as screen:
        longer = continue_run(found, epochs=epochs, overrides=overrides, listener=screen)
    show_run(longer)
    longer.refuse_forgotten()
