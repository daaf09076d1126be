"""From labels to rows that train: texts with a class, with several, with spans, or with a text as answer.

Enters: opinions. Leaves: rows in the columns that the tasks `classification`, `tagging` and `text2text` read, by decision or
majority or the word of one annotator, and how many items became none, by reason.
"""

from __future__ import annotations

import csv
import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.errors import DataError, SpaceError
from luthier.security.artifacts import write_jsonl, write_text
from luthier.workshop.labelling.opinions import Opinions, Value, Verdict
from luthier.workshop.labelling.question import Question, Span


class Exported(NamedTuple):
    """Rows, and what became of all items: by `how` the answer came about, and by reason where there is none."""

    rows: list[dict[str, Any]]
    items: int
    how: dict[str, int]
    left_out: dict[str, int]


def labelled_rows(found: Sequence[Opinions], question: Question, *, annotator: str | None = None) -> Exported:
    """A row for each item that has an answer. `annotator` takes one person's word instead of the majority's."""
    rows, how, left_out = [], Counter[str](), Counter[str]()
    for one in found:
        verdict = one.verdict if annotator is None else _word(one, annotator)
        if verdict is None:
            left_out["passed over" if annotator is None or annotator in one.skipped else "not labelled by this annotator"] += 1
        elif verdict.value is None:
            left_out["a tie: luthier data label adjudicate decides it"] += 1
        else:
            how[verdict.how if annotator is None else "one annotator's"] += 1
            rows.append({**one.content, **_target(verdict.value, question)})
    return Exported(rows, len(found), dict(how.most_common()), dict(left_out.most_common()))


def write_rows(path: Path, rows: Sequence[dict[str, Any]], question: Question) -> None:
    """Write CSV, or JSONL. Raises DataError for another ending and for spans in a CSV, SpaceError where something is there."""
    kind = path.suffix.lower()
    if kind not in (".csv", ".jsonl"):
        raise DataError(f"cannot tell the format from {path.name!r}", where=str(path), remedy="name it .jsonl or .csv")
    if kind == ".csv" and (question.form == "spans" or question.several):
        raise DataError("a CSV file has no lists", where=str(path), remedy="name it .jsonl")
    if path.exists():
        raise SpaceError("is there already", where=str(path), remedy="give another file")
    if kind == ".jsonl":
        write_jsonl(path.resolve(), rows)
        return
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, fieldnames=list(dict.fromkeys(name for row in rows for name in row)))
    writer.writeheader()
    writer.writerows(rows)
    write_text(path.resolve(), out.getvalue())


def _word(found: Opinions, annotator: str) -> Verdict | None:
    return Verdict(found.said[annotator], "agreed") if annotator in found.said else None


def _target(value: Value, question: Question) -> dict[str, Any]:
    if isinstance(value, str):
        return {"label": value}
    if question.form == "spans":
        return {"spans": [s._asdict() for s in value if isinstance(s, Span)]}
    names = [v for v in value if isinstance(v, str)]
    return {"label": names if question.several or len(names) != 1 else names[0]}
