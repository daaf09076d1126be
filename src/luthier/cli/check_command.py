"""`luthier check RECIPE`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from luthier.cli.options import accept_option, accepting, json_option, print_json, recipe_argument, set_option

LEFT_OUT = ("excluded", "dropped_by_cleaning", "dropped_as_duplicates", "dropped_by_mending", "beyond_limit")


@click.command(name="check")
@recipe_argument
@set_option
@click.option("--no-model", is_flag=True, help="Recipe and data only: no torch, under a second.")
@accept_option
@click.option("--html", "page", type=click.Path(path_type=Path), help="Also write the label X-ray as a page.")
@click.option("--time", "timed", is_flag=True, help="Also time a few updates, and say how long an epoch takes.")
@click.option("--modules", is_flag=True, help="Also list what is trained, module by module.")
@click.option("--table", is_flag=True, help="Memory of each method, precision and checkpointing, and nothing else.")
@click.option("--fit", "limit", metavar="SIZE", help="Find the best way of training in so much memory, e.g. 4GiB, and nothing else.")
@click.option("--out", type=click.Path(path_type=Path), help="With --fit: write the recipe that fits to this file.")
@json_option
def command(
    recipe: Path,
    overrides: tuple[str, ...],
    no_model: bool,
    accepted: tuple[str, ...],
    page: Path | None,
    timed: bool,
    modules: bool,
    table: bool,
    limit: str | None,
    out: Path | None,
    as_json: bool,
) -> None:
    """Find what would fail in RECIPE, its data and its model, without training.

    For models that write, it shows samples with the text that is graded in colour: the label X-ray.
    """
    if out is not None and limit is None:
        raise click.UsageError("--out goes with --fit")
    if limit is not None:
        _fit(recipe, overrides, limit, out, as_json)
        return
    if table:
        _table(recipe, overrides, as_json)
        return
    from luthier.errors import LabelError
    from luthier.workflow.check import check

    try:
        found = check(recipe, overrides=(*overrides, *accepting(accepted)), with_model=not no_model, timed=timed)
    except LabelError as error:
        _show(error.samples, page, fault=str(error))
        raise
    if as_json:
        print_json(
            {
                "summary": found.summary,
                "notes": found.notes,
                "engine": found.engine,
                "samples": found.samples,
                "memory": found.memory,
                "trained": found.trained,
            }
        )
        return
    summary = found.summary
    click.echo(
        f"rows      {summary['rows_read']} read, {summary['rows_quarantined']} quarantined, "
        f"{sum(summary.get(f'rows_{why}', 0) for why in LEFT_OUT)} left out as asked"
    )
    click.echo(f"parts     train {summary['train']}, validation {summary['validation']}, test {summary['test']}")
    counts = summary["labels"]["train"]
    if counts:
        shown = ", ".join(f"{label} {n}" for label, n in list(counts.items())[:8])
        click.echo(f"labels    {len(counts)}: {shown}" + (" …" if len(counts) > 8 else ""))
    for name, text in found.engine.items():
        click.echo(f"{name:<10}{text}")
    for name, size in sorted(_by_module(found.trained).items()) if modules else ():
        click.echo(f"trained   {size:>12,}  {name}")
    _show(found.samples, page)
    for note in found.notes:
        click.echo(f"note      {note}")
    for bad in found.quarantined[:5]:
        click.echo(f"bad row   {bad.file}:{bad.line}: {bad.reason}")
    click.echo("ok        nothing stands in the way of training")


def _by_module(trained: Mapping[str, int]) -> dict[str, int]:
    """Parameters that move, by the module that holds them."""
    found: dict[str, int] = {}
    for name, size in trained.items():
        module = name.rpartition(".")[0] or name
        found[module] = found.get(module, 0) + size
    return found


def _fit(recipe: Path, overrides: tuple[str, ...], limit: str, out: Path | None, as_json: bool) -> None:
    """The best configuration within a limit, as overrides and, where asked for, as a recipe."""
    from luthier.recipe.load import dump, load_recipe
    from luthier.security.artifacts import write_text
    from luthier.workflow.memory import fit, parse_size

    resolved = load_recipe(recipe, overrides=overrides)
    choice = fit(resolved, parse_size(limit))
    if out is not None:
        write_text(out, dump(load_recipe(resolved.recipe.model_dump(mode="json"), overrides=choice.overrides).recipe))
    if as_json:
        print_json({"overrides": choice.overrides, "memory": choice.plan.facts()})
        return
    for name, text in choice.plan.lines().items():
        click.echo(f"{name:<10}{text}")
    click.echo("use       " + " ".join(f"--set '{o}'" for o in choice.overrides))
    if out is not None:
        click.echo(f"recipe    {out}")


def _table(recipe: Path, overrides: tuple[str, ...], as_json: bool) -> None:
    """Memory of each method, precision and checkpointing."""
    from luthier.recipe.load import load_recipe
    from luthier.workflow.memory import table

    choices = table(load_recipe(recipe, overrides=overrides))
    if as_json:
        print_json({"choices": [{"overrides": c.overrides, "memory": c.plan.facts()} for c in choices]})
        return
    click.echo(f"{'method':<10}{'precision':<11}{'checkpointing':<15}memory")
    for choice in choices:
        method, precision, checkpointing, size = choice.cells()
        click.echo(f"{method:<10}{precision:<11}{checkpointing:<15}{size:>10}")


def _show(samples: Sequence[Any], page: Path | None, *, fault: str = "") -> None:
    """The label X-ray: graded text in green, on the terminal and, where asked for, as a page."""
    for number, pieces in enumerate(samples, 1):
        click.echo(f"sample {number}  " + click.style("graded", fg="green", bold=True) + " and " + click.style("read only", dim=True))
        text = "".join(click.style(p.text, fg="green", bold=True) if p.graded else click.style(p.text, dim=True) for p in _short(pieces))
        click.echo("  " + text.replace("\n", "\n  "))
    if page is not None:
        from luthier.evaluation.report import xray_page
        from luthier.security.artifacts import write_text

        write_text(page, xray_page(samples, fault=fault))
        click.echo(f"page      {page}")


def _short(pieces: Sequence[Any], most: int = 600) -> list[Any]:
    """Long pieces with their middle left out."""
    return [p if len(p.text) <= most else p._replace(text=f"{p.text[: most // 2]} […] {p.text[-most // 2 :]}") for p in pieces]
