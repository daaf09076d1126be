"""Passages: rows that hold the same long sentence, whatever else they say.

Enters: texts. Leaves: links between rows. A question about a paragraph and another about the same paragraph are not near
duplicates, but a model that has seen one knows what the other is about, so a split keeps them on one side. A sentence that
stands in very many rows is an instruction or a disclaimer, and links nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field

from luthier.data.near import words_of

LONG = 13
"""Words of a sentence that two texts do not share by chance; as in `data/leakage.py`."""
COMMON_SHARE, COMMON_ROWS = 0.01, 50
ENDS = re.compile(r"(?<=[.!?。！？])[\"'”’)]*\s+|\n+")


@dataclass
class Passages:
    """Long sentences, by a hash, with the first row that has each."""

    _first: dict[int, int] = field(default_factory=dict)
    _rows: dict[int, int] = field(default_factory=dict)
    _links: list[tuple[int, int]] = field(default_factory=list)
    """(sentence, a later row that has it)."""
    _count: int = 0

    def add(self, texts: Iterable[str]) -> None:
        """Take in some more texts."""
        for text in texts:
            for key in {hash(tuple(words)) for part in ENDS.split(text) if len(words := words_of(part)) >= LONG}:
                if self._first.setdefault(key, self._count) != self._count:
                    self._links.append((key, self._count))
                self._rows[key] = self._rows.get(key, 0) + 1
            self._count += 1

    def links(self) -> list[tuple[int, int]]:
        """Pairs of rows, the earlier first, that share a passage."""
        most = max(COMMON_ROWS, COMMON_SHARE * self._count)
        return [(self._first[key], row) for key, row in self._links if self._rows[key] <= most]
