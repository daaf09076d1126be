"""What annotators are asked of a row, and what their answers look like in the store.

Enters: the form of the question, its labels, the columns it is about. Leaves: the content of a row (what is judged) and the
payload of an answer, checked.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from luthier.data.rows import Quarantined, read
from luthier.errors import DataError
from luthier.feedback.schema import Form as Stored
from luthier.feedback.store import item_of, judged
from luthier.registry import nearest
from luthier.tasks.language import text_fault

Form = Literal["classes", "spans", "text", "pairs"]
"""Names of classes; spans of characters; words of the annotator's own; which of two texts is better."""
FORMS: tuple[Form, ...] = get_args(Form)
KEPT_AS: dict[Form, Stored] = {"classes": "labels", "spans": "spans", "text": "text"}
"""How answers to a form are kept, as labels of the store; pairs are its choices."""
NAMES: dict[Form, str] = {"classes": "labels", "spans": "spans", "text": "text", "pairs": ""}
"""What a question is called where nobody named it."""


class Span(NamedTuple):
    """Characters `start` up to, not with, `end`, and what they are."""

    start: int
    end: int
    label: str


@dataclass(frozen=True)
class Question:
    """What is asked. `several`: a row may have several classes, or none."""

    form: Form
    labels: tuple[str, ...] = ()
    several: bool = False
    named: str | None = None

    @property
    def name(self) -> str:
        """Under what answers are kept beside those to other questions about the same text."""
        return self.named or NAMES[self.form]

    def payload(self, value: Sequence[str] | Sequence[Span] | str) -> dict[str, Any]:
        """An answer as it is kept. Raises DataError for one that is none of this question's."""
        if self.form == "text":
            return {**self._head(), "text": str(value)}
        if self.form == "spans":
            spans = sorted(s for s in value if isinstance(s, Span))
            if any(a.end > b.start for a, b in pairwise(spans)):
                raise DataError("spans overlap", where="label", remedy="take one of them out: a word has one label")
            return {**self._head(), "spans": [s._asdict() for s in spans]}
        names = [self.known(str(name)) for name in value]
        if not self.several and len(names) != 1:
            raise DataError("one label is wanted", where="label", remedy="ask for several with --several")
        return {**self._head(), "labels": sorted(set(names), key=self.labels.index)}

    def skipped(self) -> dict[str, Any]:
        """What is kept of a row that an annotator passed over."""
        empty: Any = "" if self.form == "text" else []
        return {**self._head(), KEPT_AS[self.form]: empty, "skipped": True}

    def known(self, name: str) -> str:
        """A label by its name, or by a beginning that is no other's. Raises DataError for one that is none."""
        if name in self.labels:
            return name
        fitting = [label for label in self.labels if label.casefold().startswith(name.casefold())]
        if len(fitting) == 1:
            return fitting[0]
        guess = nearest(name, self.labels)
        remedy = (
            f"it begins {', '.join(fitting[:6])}" if fitting else f"did you mean {guess}?" if guess else f"one of: {_some(self.labels)}"
        )
        raise DataError(f"no label {name!r}", where="label", remedy=remedy)

    def _head(self) -> dict[str, Any]:
        return {} if self.named is None else {"question": self.named}


class Asked(NamedTuple):
    """A row to be labelled: what is judged, its hash in the store, and where it was read."""

    content: dict[str, Any]
    item: str
    file: str
    line: int


class Sheet(NamedTuple):
    """The rows of a file, each content once, and what became of the others: `rows` = asked + repeated + quarantined."""

    asked: list[Asked]
    rows: int
    repeated: int
    quarantined: list[Quarantined]
    notes: list[str]


def sheet(path: Path, *, form: Form, column: str | None = None, pair: str | None = None, prompt: str | None = None) -> Sheet:
    """The rows of a file that can be asked about.

    `column` holds the text, `pair` a second one beside it: classes are then of both together, pairs are the two to choose from.
    Raises DataError where a column is not there or no row has a text.
    """
    plain = any(s.lower() in (".txt", ".md") for s in path.suffixes)
    held = read(path, separator="\n") if plain else read(path)
    first = _column(held.columns, column, "text", where=path)
    if form == "pairs" and pair is None:
        raise DataError("two columns are wanted", where="--pair", remedy="name the column of the second text with --pair")
    second = _column(held.columns, pair, pair or "", where=path) if pair else None
    ask = _column(held.columns, prompt, prompt or "", where=path) if prompt else None
    found: dict[str, Asked] = {}
    quarantined, repeated = list(held.quarantined), 0
    for row in held.rows:
        values = [row.values.get(c) for c in (first, second, ask) if c]
        fault = next((f for v in values if (f := text_fault(v))), None)
        if fault is None and form == "pairs" and values[0] == values[1]:
            fault = "the two texts are the same"
        if fault:
            quarantined.append(Quarantined(row.file, row.line, fault, str(values[0])[:200]))
            continue
        content = _content(form, [str(v) for v in values])
        item = item_of(content)
        repeated += item in found
        found.setdefault(item, Asked(content, item, row.file, row.line))
    if not found:
        raise DataError(f"no row has a text in {first!r}", where=str(path), remedy="name another column with --column")
    return Sheet(list(found.values()), len(held.rows) + len(held.quarantined), repeated, quarantined, held.notes)


def _content(form: Form, texts: list[str]) -> dict[str, Any]:
    if form == "pairs":
        return judged(texts[2] if len(texts) > 2 else "", texts[0], texts[1])
    return dict(zip(("text", "text_pair"), texts, strict=False))


def _column(columns: Sequence[str], wanted: str | None, usual: str, *, where: Path) -> str:
    name = wanted or (usual if usual in columns else columns[0] if len(columns) == 1 else None)
    if name in columns:
        return str(name)
    guess = nearest(wanted, columns) if wanted else None
    remedy = (f"did you mean {guess!r}? " if guess else "name it with --column; ") + f"the columns are: {_some(columns)}"
    raise DataError(f"no column {wanted!r}" if wanted else "which column holds the text?", where=str(where), remedy=remedy)


def _some(names: Sequence[str]) -> str:
    return ", ".join(names[:20]) + (f" and {len(names) - 20} more" if len(names) > 20 else "")


def text_of(content: Mapping[str, Any]) -> str:
    """The texts of a row in one, as a model reads them."""
    return "\n".join(str(content[k]) for k in ("text", "text_pair") if k in content)
