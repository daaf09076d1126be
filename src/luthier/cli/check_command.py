"""`luthier check RECIPE`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import json_option, print_json, recipe_argument, set_option


@click.command(name="check")
@recipe_argument
@set_option
@click.option("--no-model", is_flag=True, help="Recipe and data only: no torch, under a second.")
@json_option
def command(recipe: Path, overrides: tuple[str, ...], no_model: bool, as_json: bool) -> None:
    """Find what would fail in RECIPE, its data and its model, without training."""
    from luthier.workflow.check import check

    found = check(recipe, overrides=overrides, with_model=not no_model)
    if as_json:
        print_json({"summary": found.summary, "notes": found.notes, "engine": found.engine})
        return
    summary = found.summary
    click.echo(
        f"rows      {summary['rows_read']} read, {summary['rows_quarantined']} quarantined, "
        f"{summary['rows_excluded'] + summary['rows_dropped_as_duplicates'] + summary['rows_beyond_limit']} left out as asked"
    )
    click.echo(f"parts     train {summary['train']}, validation {summary['validation']}, test {summary['test']}")
    counts = summary["labels"]["train"]
    if counts:
        shown = ", ".join(f"{label} {n}" for label, n in list(counts.items())[:8])
        click.echo(f"labels    {len(counts)}: {shown}" + (" …" if len(counts) > 8 else ""))
    for name, text in found.engine.items():
        click.echo(f"{name:<10}{text}")
    for note in found.notes:
        click.echo(f"note      {note}")
    for bad in found.quarantined[:5]:
        click.echo(f"bad row   {bad.file}:{bad.line}: {bad.reason}")
    click.echo("ok        nothing stands in the way of training")
