"""`luthier eject RECIPE --level pytorch`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import accept_option, accepting, recipe_argument, set_option


@click.command(name="eject")
@recipe_argument
@click.option(
    "--level",
    type=click.Choice(["pytorch", "transformers"]),
    default="pytorch",
    show_default=True,
    help="A loop written out, or transformers' Trainer.",
)
@click.option("--out", type=click.Path(path_type=Path), default=Path("train.py"), show_default=True, help="The script.")
@set_option
@accept_option
def command(recipe: Path, level: str, out: Path, overrides: tuple[str, ...], accepted: tuple[str, ...]) -> None:
    """Write RECIPE as a script that trains the same without Luthier."""
    from luthier.recipe import load_recipe

    resolved = load_recipe(recipe, overrides=(*overrides, *accepting(accepted)))
    from luthier.cli.screen import Screen
    from luthier.serving.eject import eject

    with Screen() as screen:
        done = eject(resolved, level=level, script=out, listener=screen)  # type: ignore[arg-type]
    click.echo(f"written to {done.script}, {done.updates} updates; it reads {done.files.name} beside it")
    equal = "its losses are the run's, to rounding" if done.exact else "its losses are like the run's; equal with model.dropout: 0"
    click.echo(f"  {equal}\n  python {done.script.name}")
