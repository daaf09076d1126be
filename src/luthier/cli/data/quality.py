"""`luthier data quality FILE... --label COLUMN`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from luthier.cli.data.options import reading_options, refuse_unread, stream_of, texts_of, to_option
from luthier.cli.options import json_option, print_json

if TYPE_CHECKING:
    from luthier.workshop.quality.subject import Subject
    from luthier.workshop.quality.survey import Survey

SUGGESTING: list[Any] = ["label_error", "inconsistent", "trigger"]
"""Kinds of findings that suggest labels."""
MENDED: list[Any] = ["inconsistent", "label_error"]
"""Those that are mended where none is named: a natural word that the vectors miss may look like a trigger."""
SHOWN = 100
"""Characters of a text that are shown."""


@click.command(name="quality")
@reading_options
@click.option("--label", default=None, help="The column with the labels; none where there are none. Found by name where not given.")
@click.option("--model", default="minilm", show_default=True, help="Whose vectors are used: an alias, a folder, a run, a hub id.")
@click.option("--against", multiple=True, metavar="FILE", help="Older rows, from which these may have drifted.")
@click.option("--top", type=click.IntRange(0), default=5, show_default=True, help="Findings of each kind that are shown.")
@click.option("--out", type=click.Path(path_type=Path), default=None, help="Folder for findings.jsonl and relabel.csv; not there yet.")
@click.option("--drop", "mend", flag_value="drop", help="Write a copy without the rows that are suspected of another label.")
@click.option("--relabel", "mend", flag_value="relabel", help="Write a copy in which these rows have the suggested label.")
@click.option(
    "--kind",
    "kinds",
    multiple=True,
    type=click.Choice(SUGGESTING),
    help="Whose suggestions these are; label_error and inconsistent where not given.",
)
@click.option(
    "--at-least", type=click.FloatRange(0, 1), default=0.9, show_default=True, help="How likely wrong a label must be to be mended."
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="The same seed finds the same.")
@to_option
@json_option
def command(
    label: str | None, model: str, against: tuple[str, ...], top: int, out: Path | None, mend: Any, kinds: tuple[Any, ...], at_least: float,
    seed: int, to: Any, as_json: bool, **options: Any,
) -> None:  # fmt: skip
    """Look through labelled FILEs for what would teach a model the wrong thing, and say it with reasons, worst first.

    Labels that other rows speak against, copies with unlike labels, planted triggers, words and lengths that give the label away,
    classes that are too small, rows like no other, hard and easy ones. Nothing is changed: --drop and --relabel write a copy to --out.
    """
    from luthier.data.clean import need_new
    from luthier.errors import DataError
    from luthier.workshop.quality.drifted import Other
    from luthier.workshop.quality.outcome import corrections, write
    from luthier.workshop.quality.subject import subject
    from luthier.workshop.quality.survey import survey

    if mend is None:
        refuse_unread("kinds", "at_least", "to", when="without --drop or --relabel")
    elif out is None:
        raise click.UsageError(f"--{mend} writes a copy: say where with --out")
    if out is not None:
        need_new(out)
    stream, text = stream_of(options), texts_of(options["text"])
    looked = subject(stream, text=text, label=label)
    if mend is not None and looked.labels is None:
        raise DataError("there are no labels to mend", remedy="name their column with --label")
    older = subject(stream_of({**options, "files": against}), text=text, label=looked.column or "none") if against else None
    found = survey(
        looked.texts, looked.labels, model=model, against=Other(older.texts, older.labels) if older else None, seed=seed,
        say=lambda stage: click.echo(f"· {stage}", err=True),
    )  # fmt: skip
    doubted = corrections(found, looked.labels or [], kinds=SUGGESTING, at_least=0)
    wrong = corrections(found, looked.labels or [], kinds=kinds or MENDED, at_least=at_least)
    outcome = write(stream, looked, found, out, doubted=doubted, wrong=wrong, mend=mend, format=to) if out else None
    if as_json:
        print_json({"rows": len(looked.texts), **{k: [_told(f, looked) for f in fs[:top]] for k, fs in found.findings.items()}})
        return
    for note in (*looked.notes, *found.notes):
        click.echo(f"· {note}", err=True)
    _show(found, looked, top)
    if out is None or outcome is None:
        return
    click.echo(f"wrote {out}: findings.jsonl" + (f", relabel.csv ({len(doubted):,} rows)" if looked.labels else ""))
    if outcome.books is not None:
        summary = outcome.books.summary()
        click.echo(
            f"{summary['read']:,} rows read: {summary['kept']:,} kept ({summary['changed']:,} of them changed), "
            f"{summary['dropped']:,} dropped, {summary['quarantined']:,} quarantined"
        )
        for name, rows in outcome.files.items():
            click.echo(f"wrote {out / name} ({rows:,} rows)")


def _told(finding: Any, looked: Subject) -> dict[str, Any]:
    rows = [{"file": file, "line": line} for file, line, _ in (looked.origins[r] for r in finding.rows)]
    return {"score": finding.score, "reason": finding.reason, "rows": rows, "suggested": list(finding.suggested)}


def _show(found: Survey, looked: Subject, top: int) -> None:
    from luthier.workshop.quality.finding import KINDS, shown

    click.echo(f"{len(looked.texts):,} rows" + (f", {len(set(looked.labels)):,} labels in {looked.column!r}" if looked.labels else ""))
    for kind, told in KINDS.items():
        findings = found.findings[kind]
        if not findings:
            continue
        click.secho(f"\n{kind}: {told}, {len(findings):,} found", bold=True)
        for finding in findings[:top]:
            click.echo(f"  {finding.score:7.3f}  {finding.reason}")
            if 1 <= len(finding.rows) <= 2:
                for row in finding.rows:
                    file, line, _ = looked.origins[row]
                    label = f"[{looked.labels[row]}] " if looked.labels else ""
                    click.echo(f"           {Path(file).name}:{line}  {label}{shown(looked.texts[row], most=SHOWN)}")
