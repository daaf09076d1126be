"""`luthier data augment FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luthier.cli.options import json_option, print_json


@click.command(name="augment")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder.")
@click.option(
    "--way", "ways", multiple=True, required=True, help="noise, words ..., or with options: '{type: noise, rate: 0.1}'; several in turn."
)
@click.option("--text", default="text", show_default=True, help="Column of the text.")
@click.option("--label", default=None, help="Column of the label; needed for mixing, classes and check.")
@click.option("--never", type=click.Path(path_type=Path), multiple=True, help="A file (the test's) whose texts are never made.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed makes the same rows.")
@json_option
def command(
    file: Path, out: Path, ways: tuple[str, ...], text: str, label: str | None, never: tuple[Path, ...], seed: int, as_json: bool
) -> None:
    """Make further training rows of FILE: it stays as it is, rows and made rows go to a new folder.

    A recipe does the same to its training part after the split, under data.augment.
    """
    options = [way_of(w, i) for i, w in enumerate(ways)]
    from luthier.workshop.augment.file import augment, report

    found = augment(file, options, out=out, text=text, label=label, never=never, seed=seed)
    if as_json:
        print_json(report(found, file=file, seed=seed, ways=options))
        return
    made = len(found.grown.made)
    click.echo(f"rows      {found.read} read, {found.read - sum(found.left_out.values())} varied, {made} made")
    for why, count in found.left_out.items():
        click.echo(f"          {count} not varied: {why}")
    for way in found.grown.ways:
        click.echo(f"made      {way.method}: {way.made} of {way.asked}")
        for why, count in way.left_out.most_common():
            click.echo(f"          {count} left out: {why}")
    click.echo(f"written   {out / 'rows.jsonl'}; what each was made from: {out / 'made.jsonl'}")


def way_of(written: str, number: int) -> Any:
    """The options of a way as it is written on the command line. Raises RecipeError for what it does not have."""
    import yaml

    from luthier.recipe.augment.options import AugmentOptions
    from luthier.registry import AUGMENT_OPTIONS

    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError:
        value = written
    return options_of(value, "way to augment", AugmentOptions, AUGMENT_OPTIONS, where=f"--way {number + 1}")


def options_of(value: Any, kind: str, base: Any, known: Any, *, where: str) -> Any:
    """A section's options. Raises RecipeError with all that is wrong, each with its place."""
    from pydantic import ValidationError

    from luthier.errors import Fault, RecipeError
    from luthier.recipe.choice import chosen

    try:
        return chosen(value, kind, base, known)
    except ValidationError as error:
        faults = [
            Fault(str(e["msg"]).removeprefix("Value error, "), ": ".join([where, ".".join(map(str, e["loc"]))]).rstrip(": "))
            for e in error.errors()
        ]
        raise RecipeError(faults) from None
    except ValueError as error:
        raise RecipeError([Fault(str(error), where)]) from None
