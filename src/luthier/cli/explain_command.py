"""`luthier explain RECIPE`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import json_option, print_json, recipe_argument, set_option


@click.command(name="explain")
@recipe_argument
@set_option
@click.option("--no-model", is_flag=True, help="Recipe and data only: no torch, under a second.")
@json_option
def command(recipe: Path, overrides: tuple[str, ...], no_model: bool, as_json: bool) -> None:
    """Show every value of RECIPE, where it came from, and what the engine will do."""
    from luthier.workflow.check import check

    found = check(recipe, overrides=overrides, with_model=not no_model)
    values = found.resolved.values()
    if as_json:
        print_json({"values": [{"path": p, "value": v, "source": s} for p, v, s in values], "engine": found.engine})
        return
    width = max(len(path) for path, _, _ in values)
    for path, value, source in values:
        text = str(value) if len(str(value)) <= 48 else str(value)[:47] + "…"
        click.echo(f"{path:<{width}}  {text:<48}  {click.style(source, dim=source == 'default')}")
    click.echo()
    for name, text in found.engine.items():
        click.echo(f"{name:<10}{text}")
