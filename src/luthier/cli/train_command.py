"""`luthier train RECIPE`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import accept_option, accepting, recipe_argument, set_option


@click.command(name="train")
@recipe_argument
@set_option
@accept_option
def command(recipe: Path, overrides: tuple[str, ...], accepted: tuple[str, ...]) -> None:
    """Fine-tune by RECIPE, measure, and write a run with its report."""
    from luthier.recipe import load_recipe

    resolved = load_recipe(recipe, overrides=(*overrides, *accepting(accepted)))
    from luthier.cli.screen import Screen, show_run
    from luthier.workflow.train import start

    with Screen() as screen:
        run = start(resolved, listener=screen)
    show_run(run)
    run.refuse_forgotten()
