"""`luthier evaluate RUN [FILE...]`, and with `--shots` examples in the prompt."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.options import json_option, print_json, runs_option, the_run

if TYPE_CHECKING:
    from luthier.workflow.in_context import InContext


@click.command(name="evaluate")
@click.argument("run", metavar="RUN")
@click.argument("files", nargs=-1, type=click.Path(path_type=Path))
@click.option("--shots", type=click.IntRange(1), default=None, help="Put so many answered rows before each question; nothing is trained.")
@click.option("--examples", type=click.Path(path_type=Path), default=None, help="File of those rows; the training part where not given.")
@click.option(
    "--select", type=click.Choice(["random", "nearest"]), default=None, help="Which rows: drawn, or most like the question by TF-IDF."
)
@json_option
@runs_option
def command(run: str, files: tuple[Path, ...], shots: int | None, examples: Path | None, select: Any, as_json: bool, root: Path) -> None:
    """Score RUN's saved model on its own test part, or on FILES with the columns of training.

    With --shots the scores with examples in the prompt stand beside those without; RUN may then be a recipe too, whose model
    is asked before any training.
    """
    if shots is not None:
        _in_context(_run_or_recipe(run, root), files, shots, examples, select or "random", as_json)
        return
    given = next((name for name, value in (("--examples", examples), ("--select", select)) if value is not None), None)
    if given:
        raise click.UsageError(f"{given} is for --shots: say how many rows are shown")
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
    wide = max(20, 2 + max(map(len, scores)))
    for name, score in scores.items():
        click.echo(f"{name:<{wide}}{score['value']:.4f}  95% {score['low']:.4f} to {score['high']:.4f}")
    for bad in rest.quarantined[:5]:
        click.echo(f"quarantined: {bad.file}:{bad.line}: {bad.reason}", err=True)


def _run_or_recipe(name: str, root: Path) -> Any:
    """A recipe where the name is a YAML file's, else a run."""
    if Path(name).suffix in (".yaml", ".yml"):
        from luthier.recipe import load_recipe

        return load_recipe(Path(name))
    return the_run(name, root)


def _in_context(of: Any, files: tuple[Path, ...], shots: int, examples: Path | None, select: Any, as_json: bool) -> None:
    """Both sets of scores, side by side."""
    from luthier.workflow.in_context import in_context

    found: InContext = in_context(of, list(files), shots=shots, select=select, examples=examples)
    if as_json:
        print_json({"shots": shots, "select": select, **asdict(found)})
        return
    shown = ", ".join(f"{rows} rows with {count}" for count, rows in found.used.items())
    click.echo(f"{select} examples in the prompt: {shown}; 95% bootstrap intervals, differences paired")
    for note in found.notes:
        click.echo(f"note: {note}")
    click.echo(f"{'':<20}{'0 examples':<28}{f'{shots} examples':<28}difference")
    for name, score in found.without.items():
        value, low, high = found.differences[name]
        click.echo(f"{name:<20}{_cell(score):<28}{_cell(found.shown[name]):<28}{value:+.4f}  {low:+.4f} to {high:+.4f}")


def _cell(score: Any) -> str:
    return f"{score['value']:.4f}  {score['low']:.4f} to {score['high']:.4f}"
