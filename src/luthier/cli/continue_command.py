"""`luthier continue RUN --epochs 3`, or `--data new.csv`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import run_argument, runs_option, set_option, the_run


@click.command(name="continue")
@run_argument
@click.option("--data", "files", type=click.Path(path_type=Path), multiple=True, help="File of new rows; several times for several.")
@click.option("--epochs", type=click.FloatRange(min=0, min_open=True), help="How many epochs more; inferred from new data.")
@click.option(
    "--replay",
    type=click.FloatRange(min=0, max=1, max_open=True),
    help="With --data: share of each epoch that are rows RUN was trained on; 0 for none.  [default: 0.5]",
)
@set_option
@runs_option
def command(run: str, files: tuple[Path, ...], epochs: float | None, replay: float | None, overrides: tuple[str, ...], root: Path) -> None:
    """Train RUN's model longer, or on new data, as a new run with RUN as its parent."""
    if not files and epochs is None:
        raise click.UsageError("say how much longer (--epochs 3), or name new data (--data new.csv)")
    if not files and replay is not None:
        raise click.UsageError("--replay is for new data: name some with --data")
    found = the_run(run, root)
    from luthier.cli.screen import Screen, show_run
    from luthier.workflow.train import continue_run

    share = {} if replay is None else {"replay": replay}
    with Screen() as screen:
        longer = continue_run(found, data=files or None, epochs=epochs, overrides=overrides, listener=screen, **share)
    show_run(longer)
    longer.refuse_forgotten()
