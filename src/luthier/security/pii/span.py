"""What a detector finds, and how finds that overlap are settled.

Enters: a text, candidate spans. Leaves: spans that do not overlap, in the order of the text. Offsets count characters (code points), so
that `text[span.start:span.end]` is what was found, in any script.
"""

from __future__ import annotations

import re
import unicodedata
from bisect import bisect_right, insort
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache


@dataclass(frozen=True, slots=True)
class Span:
    """Characters `start` to `end` (exclusive) of a text are of a type, with a confidence in 0..1."""

    start: int
    end: int
    type: str
    score: float


LAST = 0x1FC00
"""Beyond the last digit, dash and space of Unicode."""


@cache
def _folding() -> tuple[re.Pattern[str], dict[int, str]]:
    """Characters that stand for an ASCII one, and which: digits of other scripts, full-width forms, dashes and spaces."""
    table = {code: chr(code - 0xFEE0) for code in range(0xFF01, 0xFF5F)}
    for code in range(0x80, LAST):
        category = unicodedata.category(chr(code))
        if category == "Nd":
            table[code] = str(unicodedata.decimal(chr(code)))
        elif category == "Zs":
            table[code] = " "
        elif category == "Pd" and code not in table:
            table[code] = "-"
    table[0x2212] = "-"
    return re.compile("[" + "".join(re.escape(chr(c)) for c in sorted(table)) + "]"), table


def fold(text: str) -> str:
    """The text with look-alikes of ASCII digits, letters, dashes and spaces as ASCII, one character for one: offsets stay."""
    if text.isascii():
        return text
    pattern, table = _folding()
    return text.translate(table) if pattern.search(text) else text


def near(pattern: re.Pattern[str], text: str, start: int, end: int, *, before: int = 40, after: int = 0) -> bool:
    """Whether a word of context stands up to so many characters before, or after, a find."""
    if pattern.search(text, max(0, start - before), start):
        return True
    return after > 0 and pattern.search(text, end, end + after) is not None


def resolve(candidates: Iterable[Span], text: str) -> list[Span]:
    """Spans without overlap: the higher score wins, then the longer, then the earlier.

    What sticks out of a span that lost stays found, as its own type, where it holds a letter or digit: a weaker find is never
    uncovered by a stronger one beside it.
    """
    ranked = sorted(candidates, key=lambda s: (-s.score, s.start - s.end, s.start, s.type))
    taken: list[Span] = []
    for span in ranked:
        for start, end in list(_free(span, taken)):
            if (start, end) != (span.start, span.end):
                while start < end and not text[start].isalnum():
                    start += 1
                while start < end and not text[end - 1].isalnum():
                    end -= 1
            if start < end:
                insort(taken, Span(start, end, span.type, span.score), key=_start)
    return taken


def _start(span: Span) -> int:
    return span.start


def _free(span: Span, taken: list[Span]) -> Iterator[tuple[int, int]]:
    """The parts of a span that none of those taken, which are in order and apart, covers."""
    here = span.start
    place = bisect_right(taken, here, key=_start)
    if place and taken[place - 1].end > here:
        place -= 1
    while place < len(taken) and taken[place].start < span.end:
        if here < taken[place].start:
            yield here, taken[place].start
        here = max(here, taken[place].end)
        place += 1
    if here < span.end:
        yield here, span.end
