"""`luthier merge RUN FOLDER`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import adapter_folder, run_argument, runs_option


@click.command(name="merge")
@run_argument
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--dtype", type=click.Choice(["fp32", "bf16", "fp16"]), default=None, help="Of the weights; the base's own where not given.")
@runs_option
def command(run: str, folder: Path, dtype: str | None, root: Path) -> None:
    """Write the model of RUN (or of a folder of adapters) with its adapters merged to FOLDER, shard by shard."""
    from luthier.serving.merge import merge

    merge(adapter_folder(run, root), folder, dtype=dtype)
    click.echo(f"written to {folder}: a plain model folder")
