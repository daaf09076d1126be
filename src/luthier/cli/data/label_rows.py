"""`luthier data label FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.data.options import refuse_unread
from luthier.cli.options import login, runs_option, store_option

if TYPE_CHECKING:
    from luthier.workshop.labelling.question import Question, Sheet

DOUBTFUL = ("margin", "uncertainty", "entropy", "committee")
PICKS = (*DOUBTFUL, "diversity", "random", "order")
"""Of `picking.STRATEGIES`, and the order of the file; here by name, so that help imports nothing heavy."""


@click.command(name="rows")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--labels", metavar="A,B,C", help="The labels, or a file with one a line; those in the store where not given.")
@click.option(
    "--as", "form", type=click.Choice(["classes", "spans", "text", "pairs"]), default="classes", show_default=True, help="What is asked."
)
@click.option("--several", is_flag=True, help="A row may have several classes, or none.")
@click.option("--column", help="The column of the text; found by its name where not given.")
@click.option("--pair", metavar="COLUMN", help="The column of a second text: to be judged with the first, or against it.")
@click.option("--prompt", metavar="COLUMN", help="With --as pairs: the column of what both texts answer.")
@click.option("--question", help="A name, where the same texts are asked several things.")
@click.option("--annotator", help="Who labels; the login name where not given.")
@click.option("--guidelines", type=click.Path(path_type=Path), help="A text or Markdown file that is shown beside the rows.")
@click.option("--pick", type=click.Choice(PICKS), help="How the next rows are picked; margin for classes, else the file's order.")
@click.option("--model", default="minilm", show_default=True, help="Whose vectors picking rests on: a run, a folder, an alias.")
@click.option("--batch", type=click.IntRange(1), default=10, show_default=True, help="Rows that are picked at a time.")
@click.option(
    "--overlap",
    type=click.FloatRange(0, 1),
    default=0.2,
    show_default=True,
    help="Share of rows that others have labelled, where there are.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Where chance begins.")
@store_option
@runs_option
def command(
    file: Path,
    form: Any,
    annotator: str | None,
    guidelines: Path | None,
    pick: str | None,
    model: str,
    store: Path,
    root: Path,
    **options: Any,
) -> None:
    """Label the rows of FILE, one at a time, beside the guidelines.

    What was said is on the disk before the next row is shown, and is not asked again. b goes back, s skips, q quits, g shows the
    guidelines, ? the keys. Input may be a pipe: a line for each answer.
    """
    _check(form, pick, options)
    from luthier.cli.data.labelling import label, read_guidelines
    from luthier.feedback.store import Store
    from luthier.workshop.labelling.question import sheet

    if not file.exists():
        from luthier.cli.data.label import COMMANDS
        from luthier.registry import nearest

        if guess := nearest(str(file), COMMANDS):
            raise click.UsageError(f"no file {str(file)!r}; did you mean luthier data label {guess}?")
    aside = read_guidelines(guidelines) if guidelines else ""
    found = sheet(file, form=form, column=options["column"], pair=options["pair"], prompt=options["prompt"])
    _told(found)
    with Store(store) as opened:
        if form == "pairs":
            _choose(opened, found, annotator or login(), aside, store)
            return
        question = _question(opened, form, options["labels"], several=options["several"], named=options["question"])
        strategy = pick or ("margin" if form == "classes" and not options["several"] else "order")
        vectors = _vectors(found, model, root) if strategy not in ("order", "random") else None
        from luthier.workshop.labelling.session import Labelling

        session = Labelling(
            opened,
            found.asked,
            question,
            annotator=annotator or login(),
            strategy=strategy,
            vectors=vectors,
            **{name: options[name] for name in ("batch", "overlap", "seed")},
        )
        done = label(session, aside=aside)
        left = len(found.asked) - session.earlier - done
        before = f", {session.earlier} before" if session.earlier else ""
        click.echo(f"labelled  {done} now{before}, by {session.annotator}; kept in {store}")
        for name, count in session.counts().most_common(12):
            click.echo(f"          {count:>6} {name}")
    named = f" --question {options['question']}" if options["question"] else ""
    click.echo(
        f"          {left} to go: the same command goes on" if left else f"next      luthier data label export {store} rows.jsonl{named}"
    )


def _check(form: str, pick: str | None, options: dict[str, Any]) -> None:
    """Refuse what would be read by nobody."""
    one_class = form == "classes" and not options["several"]
    if pick in DOUBTFUL and not one_class:
        raise click.UsageError(f"--pick {pick} asks a model of single classes: take diversity, random or order")
    wrong = {
        "--pick": bool(pick) and form == "pairs",
        "--labels": bool(options["labels"]) and form in ("text", "pairs"),
        "--several": options["several"] and form != "classes",
        "--pair": bool(options["pair"]) and form in ("spans", "text"),
        "--prompt": bool(options["prompt"]) and form != "pairs",
        "--question": bool(options["question"]) and form == "pairs",
    }
    if name := next((n for n, is_wrong in wrong.items() if is_wrong), None):
        raise click.UsageError(f"{name} is not for --as {form}")
    if form == "pairs":
        refuse_unread("batch", "overlap", "seed", when="with --as pairs")
    if form == "pairs" or (pick or ("margin" if one_class else "order")) in ("order", "random"):
        refuse_unread("model", when="where --pick needs no vectors")


def _told(found: Sheet) -> None:
    for note in found.notes:
        click.echo(f"· {note}", err=True)
    if found.repeated:
        click.echo(f"· {found.repeated} rows stand there twice; each is asked once", err=True)
    if found.quarantined:
        first = found.quarantined[0]
        click.echo(
            f"· {len(found.quarantined)} rows cannot be asked; the first: {Path(first.file).name}:{first.line}: {first.reason}", err=True
        )


def _question(store: Any, form: Any, labels: str | None, *, several: bool, named: str | None) -> Question:
    from luthier.cli.data.labelling import read_labels
    from luthier.errors import DataError
    from luthier.workshop.labelling.opinions import labels_of, opinions
    from luthier.workshop.labelling.question import Question

    question = Question(form, (), several, named)
    if form == "text":
        return question
    given = read_labels(labels) if labels else labels_of(opinions(store, question))
    if not given:
        raise DataError("which labels are there?", where="--labels", remedy="--labels good,bad (or a file with one a line)")
    return Question(form, tuple(given), several, named)


def _vectors(found: Sheet, model: str, root: Path) -> Any:
    def vectors() -> Any:
        from luthier.cli.options import model_source
        from luthier.workshop.embed import embed
        from luthier.workshop.labelling.question import text_of

        return embed([text_of(row.content) for row in found.asked], model=model_source(model, root)).vectors

    return vectors


def _choose(store: Any, found: Sheet, annotator: str, aside: str, path: Path) -> None:
    """Pairs: the terminal in which answers of models are judged."""
    from luthier.cli.judging import judge
    from luthier.feedback.session import Session
    from luthier.feedback.store import Made

    pairs = (Made(row.item, row.content, {"finish": ["stop", "stop"]}) for row in found.asked)
    session = Session(store, pairs, annotator=annotator)
    judged = judge(session, total=len(found.asked), aside=aside)
    left = len(found.asked) - session.earlier - judged
    click.echo(f"judged    {judged} now, {session.earlier} before, by {session.annotator}; kept in {path}")
    click.echo(f"          {left} to go: the same command goes on" if left > 0 else f"next      luthier feedback export {path} pairs.jsonl")
