"""What a stream of rows holds: its files, its columns, what could not be read, and a sample that fits in memory.

Enters: a `Stream`. Leaves: a `Profile`, found in one pass and bounded memory. Missing and different values are counted over
all rows; lengths and kinds are told from the sample, which is every row of most files.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from luthier.data.rows import Quarantined, Row
from luthier.data.sample import Sample
from luthier.data.sources.kinds import is_json, values
from luthier.data.stages.stage import FILE, LINE, ORIGIN
from luthier.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.sources.source import Source
    from luthier.data.stream import Stream

MOST_DISTINCT = 100_000
"""Different values that are counted; of a column with more it is told that there are more."""
MOST_VALUES = 2_000
"""Different values whose rows are counted."""
EXAMPLES = 12
Type = Literal["text", "whole number", "number", "yes or no", "list", "nested", "other", "empty"]


@dataclass(frozen=True)
class Spread:
    """Of some figures: least, middle, 95th percentile and most."""

    least: float
    median: float
    most_of: float
    """The 95th percentile."""
    most: float

    @classmethod
    def of(cls, figures: Sequence[float]) -> Spread | None:
        if not len(figures):
            return None
        low, middle, high, top = np.percentile(np.asarray(figures, float), [0, 50, 95, 100]).tolist()
        return cls(low, middle, high, top)


@dataclass
class Column:
    """A column. `written` says whether numbers stand in it as texts, as in CSV files; `missing` counts null and blank cells."""

    name: str
    type: Type = "empty"
    written: bool = False
    missing: int = 0
    distinct: int | None = 0
    """Different values; None where there are more than are counted, or they are lists."""
    counts: Counter[str] | None = field(default_factory=Counter)
    """Rows of each value; None where there are many."""
    characters: Spread | None = None
    """Lengths of its texts, those inside lists and nested values together."""
    words: float = 0.0
    """Words of a text in the middle."""
    range: tuple[float, float] | None = None


@dataclass
class Profile:
    """A stream, looked through once."""

    columns: dict[str, Column]
    rows: int
    by_source: list[tuple[Source, int, int]]
    """Each file with its rows and those that could not be read."""
    quarantined: int
    reasons: Counter[str]
    examples: list[Quarantined]
    sample: pa.Table
    notes: list[str]

    @property
    def whole(self) -> bool:
        """Whether the sample is every row."""
        return bool(self.sample.num_rows == self.rows)

    def drawn(self, most: int | None = None) -> list[Row]:
        """Rows of the sample, as they were read."""
        table = self.sample if most is None else self.sample.slice(0, most)
        found: list[Row] = []
        for batch in table.to_batches():
            places = zip(batch.column(FILE).to_pylist(), batch.column(LINE).to_pylist(), strict=True)
            found += [Row(v, file, line) for v, (file, line) in zip(values(batch), places, strict=True)]
        return found


def profile(stream: Stream) -> Profile:
    """Look through all rows. Raises DataError where none can be used."""
    fields = [f for f in stream.schema if f.name not in ORIGIN]
    seen = {f.name: _Seen(f) for f in fields}
    sample = Sample(stream.schema)
    reasons: Counter[str] = Counter()
    examples: list[Quarantined] = []
    usable: Counter[str] = Counter()
    spoiled: Counter[str] = Counter()
    rows = 0
    for batch, bad, _ in stream.portions():
        rows += batch.num_rows
        usable.update(batch.column(FILE).to_pylist())
        for item in bad:
            spoiled[item.file] += 1
            reasons[item.reason.split(":")[0]] += 1
        examples += bad[: EXAMPLES - len(examples)]
        for name, one in seen.items():
            one.add(batch.column(name))
        sample.add(batch)
    quarantined = reasons.total()
    if not rows:
        where = f"{examples[0].file}:{examples[0].line}" if examples else stream.sources[0].name
        why = f"; the first because: {examples[0].reason}" if examples else ""
        raise DataError(f"holds no row that can be used{why}", where=where, remedy="mend the file, or give another")
    table = sample.table()
    columns = {name: one.column(table.column(name)) for name, one in seen.items()}
    by_source = [(s, usable[s.name], spoiled[s.name]) for s in stream.sources]
    return Profile(columns, rows, by_source, quarantined, reasons, examples, table, stream.notes)


def leaves(value: Any) -> list[str]:
    """The texts in a value, those of lists and objects too; keys are none."""
    if isinstance(value, str):
        return [value]
    held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [text for part in held for text in leaves(part)]


class _Seen:
    """One column, batch by batch."""

    def __init__(self, told: pa.Field) -> None:
        self._field, self._column = told, Column(told.name)
        self._hashes: set[int] = set()
        self._nested = is_json(told) or not _flat(told.type)

    def add(self, array: pa.Array) -> None:
        import pyarrow.compute as pc
        import pyarrow.types as kinds

        column = self._column
        column.missing += array.null_count
        text = kinds.is_string(array.type) or kinds.is_large_string(array.type)
        if text:
            column.missing += int(pc.sum(pc.equal(pc.utf8_length(pc.utf8_trim_whitespace(array)), 0)).as_py() or 0)
        if not (text or _flat(array.type)):
            column.distinct = column.counts = None
        if column.distinct is None:
            return
        pairs = [(str(p["values"]), p["counts"]) for p in pc.value_counts(array).to_pylist() if p["values"] is not None]
        self._hashes.update(hash(v) for v, _ in pairs if v.strip())
        column.distinct = len(self._hashes)
        if column.distinct > MOST_DISTINCT:
            column.distinct, self._hashes = None, set()
        if column.counts is not None:
            column.counts.update({v: n for v, n in pairs if v.strip()})
            if len(column.counts) > MOST_VALUES:
                column.counts = None

    def column(self, drawn: pa.ChunkedArray) -> Column:
        """The column, with what the sample tells of it."""
        import json

        column = self._column
        cells = [c for c in drawn.to_pylist() if c is not None and (not isinstance(c, str) or c.strip())]
        if is_json(self._field):
            cells = [json.loads(c) for c in cells]
        column.type, column.written = _type(cells)
        texts = [] if column.type in ("whole number", "number", "yes or no", "other") else [t for t in map(leaves, cells) if t]
        column.characters = Spread.of([sum(map(len, t)) for t in texts])
        column.words = float(np.median([sum(len(p.split()) for p in t) for t in texts])) if texts else 0.0
        if column.type in ("whole number", "number"):
            figures = [f for f in map(number, cells) if f is not None]
            column.range = (min(figures), max(figures)) if figures else None
        return column


def _flat(kind: Any) -> bool:
    import pyarrow.types as kinds

    return not kinds.is_nested(kind) and not kinds.is_binary(kind) and not kinds.is_large_binary(kind)


def number(value: Any) -> float | None:
    """A cell as a finite number, whether it is one or is written as one; None where it is none."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        found = float(value)
    except (ValueError, OverflowError):
        return None
    return found if math.isfinite(found) and (not isinstance(value, str) or value.strip()[-1:].isdigit()) else None


def _type(cells: Sequence[Any]) -> tuple[Type, bool]:
    """What the cells are, and whether they are written as texts."""
    if not cells:
        return "empty", False
    written = all(isinstance(c, str) for c in cells)
    figures = [number(c) for c in cells]
    if all(f is not None for f in figures):
        whole = all(
            f.is_integer() and "." not in str(c).rstrip("0").rstrip(".") for f, c in zip(figures, cells, strict=True) if f is not None
        )
        return ("whole number" if whole else "number"), written
    if all(isinstance(c, bool) for c in cells):
        return "yes or no", False
    if written:
        return "text", False
    if all(isinstance(c, list) and not any(isinstance(v, (list, dict)) for v in c) for c in cells):
        return "list", False
    return ("nested" if any(isinstance(c, (list, dict, str)) for c in cells) else "other"), False
