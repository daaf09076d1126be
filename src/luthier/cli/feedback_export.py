"""`luthier feedback export [STORE] OUT`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import store_option


@click.command(name="export")
@click.argument("files", nargs=-1, required=True, metavar="[STORE] OUT.jsonl", type=click.Path(path_type=Path))
@click.option(
    "--as",
    "form",
    type=click.Choice(["pairs", "ranked", "unpaired", "conversations"]),
    default="pairs",
    show_default=True,
    help="Form of rows.",
)
@click.option("--annotator", help="Whose word counts; the majority's where not given.")
@click.option("--threshold", type=float, help="unpaired, conversations: rating from which on an answer is good, where ratings are numbers.")
@store_option
def command(files: tuple[Path, ...], form: str, annotator: str | None, threshold: float | None, store: Path) -> None:
    """Write what people said as rows that the tasks preference and chat read; say what became of every judgement."""
    if len(files) > 2:
        raise click.UsageError("give a store and a file, or a file alone")
    from luthier.errors import DataError, SpaceError
    from luthier.feedback import Store, training_rows
    from luthier.security.artifacts import write_jsonl

    source, out = files if len(files) == 2 else (store, files[0])
    if out.exists():
        raise SpaceError("is there already", where=str(out), remedy="give another file")
    with Store(source, create=False) as opened:
        found = training_rows(opened, form, annotator=annotator, threshold=threshold)  # type: ignore[arg-type]
        known = sorted({e.annotator for e in opened.entries()})
    if annotator is not None and annotator not in known:
        from luthier.registry import nearest

        guess = nearest(annotator, known)
        remedy = f"did you mean {guess}?" if guess else f"there are {', '.join(known[:8]) or 'none'}"
        raise DataError(f"nobody called {annotator!r} has said anything", where=str(source), remedy=remedy)
    lines = [f"          {count} left out: {why}" for why, count in found.left_out.items()]
    if not found.rows:
        raise DataError(
            "\n".join([f"none of {found.judgements} judgements makes a row of the form {form}", *lines]),
            where=str(source),
            remedy="choose another form with --as, or judge more",
        )
    write_jsonl(out.resolve(), found.rows)
    click.echo(f"written   {out}: {len(found.rows)} rows from {found.used} of {found.judgements} judgements")
    for line in lines:
        click.echo(line)
