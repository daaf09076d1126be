"""The rows of a stream that quality is asked about: which column is the text, which the label, and where each row stands.

Enters: a stream and names of columns (the label's may be left to be found). Leaves: texts and labels as lists, with file, line and
number of each row; rows without a text or a label are counted and told, and left out of what is looked at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.data.rows import cell_text
from luthier.data.sources.kinds import is_json
from luthier.data.stages.stage import FILE, LINE, ROW
from luthier.data.stages.texts import joined, need, own_columns, text_columns
from luthier.errors import DataError

if TYPE_CHECKING:
    from luthier.data.stream import Stream

LABELS = ("label", "labels", "category", "class", "sentiment", "intent", "target", "topic", "emotion")
"""Names that a column of labels has, likeliest first."""
NONE = "none"
"""What stands for no labels, where a column is named."""


@dataclass(frozen=True)
class Subject:
    """Texts, their labels (None where there are none), and for each its file, line and number in the stream."""

    texts: list[str]
    labels: list[str] | None
    origins: list[tuple[str, int, int]]
    column: str | None
    """Of the labels."""
    cells: dict[str, Any]
    """Label -> the cell that stands for it in the file."""
    notes: list[str]


def subject(stream: Stream, *, text: Sequence[str], label: str | None) -> Subject:
    """Read the rows. Raises DataError for columns that are not there, labels that are lists, and where no row can be looked at."""
    where = stream.sources[0].name
    text_columns(stream.schema, text, stage=where)
    column = _label_column(stream, label, where=where, taken=text)
    texts: list[str] = []
    labels: list[str] = []
    origins: list[tuple[str, int, int]] = []
    cells: dict[str, Any] = {}
    empty = unlabelled = 0
    for portion in stream.portions():
        batch = portion.batch
        given = batch.column(column).to_pylist() if column else [NONE] * batch.num_rows
        places = zip(*(batch.column(n).to_pylist() for n in (FILE, LINE, ROW)), strict=True)
        for one, cell, place in zip(joined(batch, text), given, places, strict=True):
            if not one.strip():
                empty += 1
            elif not (name := cell_text(cell)):
                unlabelled += 1
            else:
                texts.append(one)
                labels.append(name)
                origins.append(place)
                cells.setdefault(name, cell)
    told = [(empty, "without a text"), (unlabelled, f"without a label in {column!r}")]
    notes = [f"{count:,} rows {what} are not looked at" for count, what in told if count]
    if not texts:
        raise DataError("no row can be looked at", where=where, remedy="; ".join(notes) or "name the column of texts with --text")
    if column is not None and label is None:
        notes.append(f"the labels are taken from {column!r}; name another column with --label")
    return Subject(texts, labels if column else None, origins, column, cells, notes)


def _label_column(stream: Stream, wanted: str | None, *, where: str, taken: Sequence[str]) -> str | None:
    import pyarrow as pa

    names = own_columns(stream.schema)
    if wanted == NONE and NONE not in names:
        return None
    if wanted is not None:
        need(stream.schema, [wanted], stage=where)
    found = wanted if wanted is not None else next((n for n in LABELS if n in names and n not in taken), None)
    if found is None:
        listed = ", ".join(map(repr, names[:20]))
        raise DataError(
            "which column has the labels?", where=where, remedy=f"name it with --label, or say --label {NONE}; the columns are: {listed}"
        )
    if found in taken:
        raise DataError(f"{found!r} is the column of texts and of labels", where=where, remedy="name two columns with --text and --label")
    field = stream.schema.field(found)
    if pa.types.is_nested(field.type) or is_json(field):
        raise DataError(
            f"column {found!r} holds lists or objects: rows with several labels cannot be judged",
            where=where,
            remedy=f"name a column with one label a row, or say --label {NONE}",
        )
    return found
