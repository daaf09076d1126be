"""`luthier retention RECIPE`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from luthier.cli.options import json_option, print_json, recipe_argument, set_option


@click.command(name="retention")
@recipe_argument
@set_option
@click.option("--ways", default="", metavar="A,B,C+D", help="Which ways; + puts two together. All that suit the recipe where not given.")
@click.option("--seeds", type=click.IntRange(1), default=1, show_default=True, help="Trainings of each way; three or more give intervals.")
@json_option
def command(recipe: Path, overrides: tuple[str, ...], ways: str, seeds: int, as_json: bool) -> None:
    """Train RECIPE with every way against forgetting, and say which one to choose.

    A comparison that was stopped goes on where it was when it is started again.
    """
    from luthier.recipe import load_recipe

    resolved = load_recipe(recipe, overrides=overrides)
    from luthier.cli.screen import Screen, ways_table
    from luthier.workflow.events import silent
    from luthier.workflow.ways import compare

    chosen = [w.strip() for w in ways.split(",") if w.strip()]
    if as_json:
        found = compare(resolved, ways=chosen, seeds=seeds, listener=silent)
        print_json(json.loads((found.folder / "ways.json").read_text(encoding="utf-8")))
        return
    with Screen() as screen:
        found = compare(resolved, ways=chosen, seeds=seeds, listener=screen)
    _show(found, ways_table)


def _show(found: Any, table: Any) -> None:
    from luthier.cli.screen import console

    console.print()
    console.print(table(found))
    for way, why in found.left_out.items():
        console.print(f"{way} is left out: {why}", highlight=False, markup=False)
    console.print(f"choose  {found.advice.way}: {found.advice.why}", highlight=False, markup=False)
    console.print(f"report  {found.page}", highlight=False, soft_wrap=True, markup=False)
