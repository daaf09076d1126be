"""`luthier export RUN --to hf FOLDER`."""

from __future__ import annotations

import json
from pathlib import Path

import click

from luthier.cli.options import run_argument, runs_option, the_run


@click.command(name="export")
@run_argument
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--to", "form", type=click.Choice(["hf"]), default="hf", show_default=True, help="hf: a plain transformers folder.")
@runs_option
def command(run: str, folder: Path, form: str, root: Path) -> None:
    """Write RUN's model to FOLDER, for transformers alone, and check that it answers the same."""
    found = the_run(run, root)
    from luthier.serving import export

    difference = {"hf": export.export_hf}[form](found, folder)
    click.echo(f"written to {folder}; read back with transformers alone, answers differ by at most {difference:.1e}")
    if str(found.facts["task"]).startswith(("classification", "few_shot")):
        click.echo(f'  from transformers import pipeline\n  pipeline("text-classification", "{folder}")')
        return
    name = json.loads((folder / "config.json").read_text(encoding="utf-8"))["architectures"][0]
    click.echo(f'  from transformers import {name}\n  {name}.from_pretrained("{folder}")')
