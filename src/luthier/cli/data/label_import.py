"""`luthier data label import FILE`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import store_option


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--annotator", help="Whose labels these are where the file names nobody; imported where not given.")
@click.option("--column", help="The text among a task's data; found by its name where not given.")
@click.option("--text", is_flag=True, help="Argilla: read answers as texts, not as names of classes.")
@store_option
def command(file: Path, annotator: str | None, column: str | None, text: bool, store: Path) -> None:
    """Bring the labels of a JSON file of Label Studio or Argilla into the store; say what became of each."""
    from luthier.feedback.store import Store
    from luthier.workshop.labelling.exchange import bring

    found = bring(file, annotator=annotator, column=column, text=text)
    with Store(store) as opened:
        found.keep(opened)
    again = f", {found.repeated} were there already" if found.repeated else ""
    click.echo(f"brought   {found.kept} labels of {found.tasks} tasks ({found.format}){again}; kept in {store}")
    for why, count in found.left_out.most_common():
        click.echo(f"          {count} left out: {why}")
