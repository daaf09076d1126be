"""`luthier data clean FILE... --stage NAME --out FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luthier.cli.data.options import out_option, reading_options, stages_of, stream_of, texts_in, to_option
from luthier.cli.options import json_option, print_json


@click.command(name="clean")
@reading_options
@click.option(
    "--stage", "stages", multiple=True, metavar="NAME [KEY=VALUE]...", help="A stage; several, in order, by giving it several times."
)
@click.option("--recipe", type=click.Path(path_type=Path), default=None, help="Take the stages of this recipe's data.clean.")
@to_option
@out_option
@json_option
def command(stages: tuple[str, ...], recipe: Path | None, to: Any, out: Path, as_json: bool, **options: Any) -> None:
    """Read FILEs of any format, send every row through the stages, and write them to a new folder.

    A FILE is a file, a folder, a pattern, a zip archive, hf:OWNER/NAME@REVISION, or the URL of a database. Beside the rows stand
    report.json and fates.jsonl: what became of each row, and why. A run that was killed goes on where it was.

    Stages: missing, unicode, markup, whitespace, language, length, boilerplate, duplicates, near_duplicates,
    semantic_duplicates, irrelevant, privacy. Without one, the rows
    are only read, checked and written.
    """
    from luthier.data.clean import clean

    chosen = stages_of(stages)
    if recipe is not None:
        from luthier.recipe import load_recipe

        chosen = [*load_recipe(recipe).recipe.data.clean, *chosen]
    stream = stream_of(options)
    cleaned = clean(stream, chosen, out, format=to, text=texts_in(stream, options["text"]))
    summary = cleaned.books.summary()
    if as_json:
        print_json({"folder": str(out), "files": cleaned.files, "rows": summary})
        return
    if cleaned.resumed:
        click.echo(f"went on after {cleaned.resumed} batches of a run that was stopped")
    click.echo(
        f"{summary['read']:,} rows read: {summary['kept']:,} kept ({summary['changed']:,} of them changed), "
        f"{summary['dropped']:,} dropped, {summary['quarantined']:,} quarantined"
    )
    for stage, told in summary["stages"].items():
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in list(told["reasons"].items())[:5])
        click.echo(f"  {stage}: {reasons}" if reasons else f"  {stage}")
    for name, rows in cleaned.files.items():
        click.echo(f"wrote {out / name} ({rows:,} rows)")
