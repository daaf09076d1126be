"""`luthier evaluate RUN [FILE...]`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import json_option, print_json, run_argument, runs_option, the_run


@click.command(name="evaluate")
@run_argument
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@json_option
@runs_option
def command(run: str, files: tuple[Path, ...], as_json: bool, root: Path) -> None:
    """Score RUN's saved model on its own test part, or on FILES with the columns of training."""
    found = the_run(run, root)
    from luthier.workflow.measure import evaluate

    scores, rest = evaluate(found, list(files) or None)
    if as_json:
        print_json({"scores": scores, "quarantined": [q._asdict() for q in rest.quarantined]})
        return
    n = next(iter(scores.values()))["n"]
    click.echo(f"{n} rows scored, {len(rest.quarantined)} quarantined")
    for note in rest.notes:
        click.echo(f"note: {note}")
    for name, score in scores.items():
        click.echo(f"{name:<20}{score['value']:.4f}  95% {score['low']:.4f} to {score['high']:.4f}")
    for bad in rest.quarantined[:5]:
        click.echo(f"quarantined: {bad.file}:{bad.line}: {bad.reason}", err=True)
