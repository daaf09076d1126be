"""`luthier data label export [STORE] OUT`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import store_option


@click.command(name="export")
@click.argument("files", nargs=-1, required=True, metavar="[STORE] OUT", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "form",
    type=click.Choice(["rows", "label-studio", "argilla"]),
    default="rows",
    show_default=True,
    help="Rows for training (.jsonl, .csv), or every opinion for another tool (.json).",
)
@click.option("--question", help="Which question, where the store has several.")
@click.option("--annotator", help="Whose word makes the rows; the majority's where not given.")
@store_option
def command(files: tuple[Path, ...], form: str, question: str | None, annotator: str | None, store: Path) -> None:
    """Write labels: as rows by decision or majority, with ties counted; or with all opinions, for Label Studio or Argilla."""
    if len(files) > 2:
        raise click.UsageError("give a store and a file, or a file alone")
    if annotator and form != "rows":
        raise click.UsageError("--annotator is for rows: other tools get every opinion")
    from luthier.errors import DataError
    from luthier.feedback.store import Store
    from luthier.workshop.labelling.exchange import send
    from luthier.workshop.labelling.label_studio import configuration
    from luthier.workshop.labelling.opinions import poll
    from luthier.workshop.labelling.rows import labelled_rows, write_rows

    source, out = files if len(files) == 2 else (store, files[0])
    with Store(source, create=False) as opened:
        found = poll(opened, named=question)
    if form != "rows":
        count = send(out, found.opinions, found.question, format=form)  # type: ignore[arg-type]
        click.echo(f"written   {out}: {count} tasks with {sum(len(o.entries) for o in found.opinions)} answers")
        if form == "label-studio":
            pair = any("text_pair" in o.content for o in found.opinions)
            click.echo(f"its labelling configuration:\n{configuration(found.question, pair=pair)}")
        return
    known = sorted({name for o in found.opinions for name in o.said})
    if annotator is not None and annotator not in known:
        from luthier.registry import nearest

        guess = nearest(annotator, known)
        remedy = f"did you mean {guess}?" if guess else f"there are {', '.join(known[:8]) or 'none'}"
        raise DataError(f"nobody called {annotator!r} has labelled anything", where=str(source), remedy=remedy)
    made = labelled_rows(found.opinions, found.question, annotator=annotator)
    lines = [f"          {count} left out: {why}" for why, count in made.left_out.items()]
    if not made.rows:
        raise DataError("\n".join([f"none of {made.items} labelled rows has an answer", *lines]), where=str(source))
    write_rows(out, made.rows, found.question)
    how = ", ".join(f"{n} {name}" for name, n in made.how.items())
    click.echo(f"written   {out}: {len(made.rows)} of {made.items} rows ({how})")
    for line in lines:
        click.echo(line)
