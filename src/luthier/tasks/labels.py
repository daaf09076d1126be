"""Labels as they stand in files: the cells of a row, the kind of target they mean, and the label space.

Enters: rows and the `data` section. Leaves: label names as strings, whatever the file's own form: a
column of names or numbers, a cell with several, a list, or columns of 0 and 1. Torch-free.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Literal

from luthier.data.prepare import excluded
from luthier.data.rows import Row, cell_text
from luthier.errors import DataError

if TYPE_CHECKING:
    from luthier.recipe.sections import Data

Kind = Literal["single_label", "multi_label", "regression"]
YES = {"1", "true", "yes"}
NO = {"0", "false", "no"}


def cells(row: Row, data: Data) -> list[str]:
    """The label cells of a row as strings: names of its 1-columns, parts of a split cell, or the cell."""
    if isinstance(data.label, list):
        return [c for c in data.label if cell_text(row.values.get(c)).lower() in YES]
    value = row.values.get(data.label)
    values = value if isinstance(value, list) else [value]
    if data.label_separator and isinstance(value, str):
        values = value.split(data.label_separator)
    return [text for text in map(cell_text, values) if text]


def kind_of(data: Data, rows: Sequence[Row]) -> Kind:
    """Several labels where the recipe or a cell says so; numbers with fractions are a regression."""
    if isinstance(data.label, list) or data.label_separator or any(isinstance(r.values.get(data.label), list) for r in rows):
        return "multi_label"
    values = [cell_text(r.values.get(data.label)) for r in rows if not excluded(r, data)]
    try:
        numbers = [float(v) for v in values if v]
    except ValueError:
        return "single_label"
    return "regression" if any(math.isfinite(n) and not n.is_integer() for n in numbers) else "single_label"


def label_space(wanted: Sequence[str] | None, seen: Collection[str], *, known: Sequence[str] = ()) -> tuple[list[str], bool]:
    """The labels in order, those `known` from an earlier run first, and whether cells hold their numbers instead of their names."""
    if wanted is None:
        new = set(seen) - set(known)
        return [*known, *sorted(new, key=int if all(v.removeprefix("-").isdecimal() for v in new) else None)], False
    if len(set(wanted)) != len(wanted):
        raise DataError("a label stands twice", where="task.labels")
    numbers = {str(i) for i in range(len(wanted))}
    by_number = bool(seen) and set(seen) <= numbers and not set(seen) <= set(wanted)
    if by_number and list(known) != list(wanted)[: len(known)]:
        raise DataError(
            "the cells hold numbers of labels, and task.labels does not begin with those of the earlier run",
            where="task.labels",
            remedy=f"write them first, in their order: {', '.join(known)}",
        )
    return [*known, *(label for label in wanted if label not in known)], by_number


def look_alikes(new: Sequence[str], known: Sequence[str]) -> list[tuple[str, str]]:
    """(new, known) labels that differ in case, blanks, hyphens or underscores alone: hardly meant as two."""
    plain = {_plain(label): label for label in known}
    return [(label, plain[_plain(label)]) for label in new if _plain(label) in plain and label not in known]


def _plain(label: str) -> str:
    return "".join(c for c in label.casefold() if not c.isspace() and c not in "-_")
