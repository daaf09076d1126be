"""`luthier resume RUN`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import run_argument, runs_option, the_run


@click.command(name="resume")
@run_argument
@click.option("--finish", is_flag=True, help="Train no further: score and save what is there.")
@runs_option
def command(run: str, finish: bool, root: Path) -> None:
    """Go on with RUN from its newest whole checkpoint, to the same bits."""
    found = the_run(run, root)
    from luthier.cli.screen import Screen, show_run
    from luthier.workflow.train import resume

    with Screen() as screen:
        done = resume(found, finish=finish, listener=screen)
    show_run(done)
    done.refuse_forgotten()
