"""`luthier similar RUN FILE "query"`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from luthier.cli.options import json_option, model_argument, model_source, print_json, runs_option

SHOWN = 300
"""Characters of a text that are shown."""


@click.command(name="similar")
@model_argument
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("queries", nargs=-1, required=True)
@click.option("-k", "--count", "count", type=click.IntRange(1), default=5, show_default=True, help="Rows for each query.")
@click.option("--column", default=None, help="Column to search; that of the training where not given.")
@runs_option
@json_option
def command(model: str, file: Path, queries: tuple[str, ...], count: int, column: str | None, root: Path, as_json: bool) -> None:
    """Find the rows of FILE that are most like each of QUERIES, with MODEL (a run, a folder or an alias such as minilm).

    The file is embedded once; asking again is quick.
    """
    from luthier.workflow.similar import similar

    found = similar(model_source(model, root), file, queries, k=count, column=column)
    for note in found.notes:
        click.echo(f"note      {note}", err=True)
    if as_json:
        print_json([{"query": q, "matches": [asdict(m) for m in matches]} for q, matches in zip(queries, found.matches, strict=True)])
        return
    for query, matches in zip(queries, found.matches, strict=True):
        if len(queries) > 1:
            click.secho(query, bold=True)
        for match in matches:
            text = " ".join(match.text.split())
            text = text if len(text) <= SHOWN else text[: SHOWN - 1] + "…"
            click.echo(f"{match.score:6.3f}  {file.name}:{match.line}  {text}")
