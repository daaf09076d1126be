"""Lines to records of cells: CSV, TSV and their kin, with every broken record told and reading taken up after it.

Enters: lines, a few at a time. Leaves: records, each with the line it began on. After a quote that never closes, or any
other fault, reading goes on at the line after the one that the broken record began with.
"""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

from luthier.data.sources.lines import EXCERPT, MOST, Line

SEPARATORS = (",", ";", "\t", "|")
NAMES = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "bars"}


@dataclass(frozen=True)
class Dialect:
    """How fields are told apart: what stands between them, and whether quotes hold them together."""

    delimiter: str
    quoting: int = csv.QUOTE_MINIMAL

    def __str__(self) -> str:
        quotes = "quotes are text" if self.quoting == csv.QUOTE_NONE else 'quoted with "'
        return f"fields separated by {NAMES.get(self.delimiter, repr(self.delimiter))}, {quotes}"


class Cells(NamedTuple):
    """A record: its cells, or None and what is wrong."""

    line: int
    cells: list[str] | None
    fault: str
    excerpt: str


class _Spoiled(Exception):
    """A line that cannot be read stands where a record goes on."""


class _Feed:
    """Gives lines to a csv reader, and remembers those of the record that it is in."""

    def __init__(self, lines: Iterable[Line]) -> None:
        self._lines, self._again = iter(lines), deque[Line]()
        self.taken: list[Line] = []

    def __iter__(self) -> _Feed:
        return self

    def __next__(self) -> str:
        line = self._again.popleft() if self._again else next(self._lines)
        self.taken.append(line)
        if line.fault:
            raise _Spoiled(line.fault)
        return line.text

    def again(self) -> None:
        """Give the lines of this record once more, all but the first."""
        self._again.extendleft(reversed(self.taken[1:]))


def records(lines: Iterable[Line], dialect: Dialect) -> Iterator[Cells]:
    """Every record of some lines; empty lines are none."""
    csv.field_size_limit(MOST)
    feed = _Feed(lines)

    def fresh() -> Any:
        return csv.reader(feed, delimiter=dialect.delimiter, quoting=dialect.quoting, strict=dialect.quoting != csv.QUOTE_NONE)  # type: ignore[arg-type]

    reader = fresh()
    while True:
        feed.taken.clear()
        try:
            cells = next(reader)
        except StopIteration:
            return
        except (csv.Error, _Spoiled) as error:
            first = feed.taken[0]
            yield Cells(first.number, None, first.fault or _reason(error, feed.taken), _excerpt(first.text))
            feed.again()
            reader = fresh()
            continue
        if cells:
            yield Cells(feed.taken[0].number, cells, "", "")


def _excerpt(text: str) -> str:
    return text[:EXCERPT].rstrip("\r\n")


def _reason(error: Exception, taken: list[Line]) -> str:
    text = str(error)
    if isinstance(error, _Spoiled):
        return f"a quoted field goes on into line {taken[-1].number}, which cannot be read: {text}"
    if "end of data" in text:
        return "a quote is opened and never closed"
    if "field limit" in text:
        return f"a quote is opened and not closed within {MOST >> 20} Mi characters"
    return text


def delimiter_of(first: str) -> str:
    """The separator of a header line: the commonest of the usual ones."""
    counts = {d: first.count(d) for d in SEPARATORS}
    best = max(counts, key=lambda d: counts[d])
    return best if counts[best] else ","


def tsv_quoting(lines: Callable[[], Iterable[Line]]) -> int:
    """Many TSV files hold bare quotes, some quoted fields: the reading under which every record is whole is taken."""
    fields, full, even = 0, 0, True
    for line in lines():
        if not line.text.strip() or line.fault:
            continue
        count = line.text.count("\t") + 1
        fields, full = fields or count, full + 1
        even = even and count == fields
    found, clean = 0, True
    csv.field_size_limit(MOST)
    try:
        for record in csv.reader((line.text for line in lines() if not line.fault), delimiter="\t", strict=True):
            if record:
                found += 1
                clean = clean and len(record) == fields
    except csv.Error:
        return csv.QUOTE_NONE
    return csv.QUOTE_MINIMAL if clean and (found == full or not even) else csv.QUOTE_NONE
