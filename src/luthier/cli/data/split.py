"""`luthier data split FILE... --by stratified --column label --out FOLDER`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luthier.cli.data.options import out_option, reading_options, refuse_unread, stream_of, texts_in, to_option
from luthier.cli.options import json_option, print_json


@click.command(name="split")
@reading_options
@click.option(
    "--by", type=click.Choice(["random", "stratified", "grouped", "time"]), default="random", show_default=True, help="How rows are dealt."
)
@click.option("--column", default=None, help="The labels to stratify by, the groups to keep together, or the times.")
@click.option("--validation", type=click.FloatRange(0, 1, max_open=True), default=0.1, show_default=True, help="Share of the rows.")
@click.option("--test", type=click.FloatRange(0, 1, max_open=True), default=0.2, show_default=True, help="Share of the rows.")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed deals the same.")
@click.option(
    "--near",
    type=click.FloatRange(0.5, 1),
    default=0.8,
    show_default=True,
    help="Texts at least so alike stay on one side; 1 for equal words.",
)
@click.option(
    "--close", type=click.FloatRange(0.5, 1), default=None,
    help="Texts whose vectors have at least this cosine mean the same: they stay on one side, and leak.",
)  # fmt: skip
@click.option("--model", default="minilm", show_default=True, help="Gives the vectors for --close: a run, a folder, an alias or a hub id.")
@click.option("--against", multiple=True, metavar="FILE", help="Rows that must not be trained on: a test file, an evaluation set.")
@click.option("--run", type=click.IntRange(3), default=13, show_default=True, help="So many words in a row are no chance.")
@click.option(
    "--leaks", type=click.Choice(["remove", "refuse"]), default="remove", show_default=True, help="What to do with rows that leak."
)
@click.option(
    "--keep-to", type=click.Path(path_type=Path), default=None, help="The split.jsonl of an earlier split: its rows stay where they were."
)
@to_option
@out_option
@json_option
def command(
    by: Any, column: str | None, validation: float, test: float, seed: int, near: float, close: float | None, model: str,
    against: tuple[str, ...], run: int, leaks: Any, keep_to: Path | None, to: Any, out: Path, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Share the rows of FILEs out to train, validation and test in a new folder.

    Rows with the same text, nearly the same or the same passage stay on one side, and so do rows of one group; with --close
    also those that say the same in other words. The split is saved by content (split.jsonl), so that it survives re-ordering.
    Rows for training that stand in an --against file are removed, or refused.
    """
    from luthier.data.sharing import Plan, held_out, share
    from luthier.data.stream import open_stream

    if close is None:
        refuse_unread("model", when="without --close")
    if not against:
        refuse_unread("run", "leaks", when="without --against")
    if by == "time":
        refuse_unread("seed", when="with --by time")
    stream = stream_of(options)
    text = texts_in(stream, options["text"])
    meant, held = None if close is None else _closeness(model, close), None
    if against:
        tested = open_stream(against)
        text_there = texts_in(tested, options["text"], where="--against")
        held = held_out(tested, text=text_there, threshold=near, run=run, close=meant)
    plan = Plan(
        by=by, column=column, validation=validation, test=test, seed=seed, near=near, close=meant, text=text, saved=keep_to, leaks=leaks
    )  # fmt: skip
    shared = share(stream, plan, out, held=held, format=to)
    summary = shared.books.summary()
    if as_json:
        print_json({"folder": str(out), "files": shared.files, "rows": summary, "groups": shared.groups})
        return
    for name, rows in shared.files.items():
        click.echo(f"wrote {out / name} ({rows:,} rows)")
    alike = "nearly the same or the same passage, or of one group" + (", or that mean the same" if meant else "")
    click.echo(f"{shared.groups:,} groups with the same text, {alike}, each on one side")
    for stage, told in summary["stages"].items():
        click.echo(f"  {stage}: " + ", ".join(f"{n:,} {reason}" for reason, n in told["reasons"].items()))


def _closeness(model: str, threshold: float) -> Any:
    """How texts are compared by what they mean."""
    from luthier.data.close import Closeness
    from luthier.workshop.embed import embed, embedder_of

    embedder = embedder_of(model)
    return Closeness(lambda texts: embed(texts, model=embedder).vectors, threshold)
