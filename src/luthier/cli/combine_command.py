"""`luthier combine FOLDER RUN=WEIGHT RUN=WEIGHT`."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import click

from luthier.cli.options import adapter_folder, runs_option

HOWS = ("linear", "svd", "ties", "ties_svd", "dare_linear", "dare_ties")


@click.command(name="combine")
@click.argument("folder", type=click.Path(path_type=Path))
@click.argument("parts", nargs=-1, required=True, metavar="RUN=WEIGHT...")
@click.option("--by", "how", type=click.Choice(HOWS), default="linear", show_default=True, help="How values are added up.")
@click.option("--density", type=click.FloatRange(0, 1, min_open=True), default=0.5, show_default=True, help="Share kept by ties and dare.")
@click.option("--seed", type=int, default=0, show_default=True, help="Draws what dare leaves out.")
@runs_option
def command(folder: Path, parts: tuple[str, ...], how: str, density: float, seed: int, root: Path) -> None:
    """Write to FOLDER the adapters of several runs on one base, added up with weights."""
    from luthier.serving.merge import combine

    weights = {}
    for part in parts:
        name, _, weight = part.rpartition("=")
        try:
            weights[adapter_folder(name, root)] = float(weight)
        except ValueError:
            raise click.UsageError(f"{part!r} is not of the form RUN=WEIGHT, such as polite-1=0.7") from None
    combine(weights, folder, how=cast(Any, how), density=density, seed=seed)
    click.echo(f"written to {folder}: adapters in PEFT's form; use them as a model folder")
