"""What repeats in a stream: rows with the same texts, rows with nearly the same, within a file given and between them.

Enters: a stream and the columns whose texts make a row. Leaves: counts, a few examples by place, and how much of each file
given stands in another too: leakage, where one of them is for testing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luthier.data.near import Texts
from luthier.data.profile import leaves
from luthier.data.sources.kinds import values
from luthier.data.split import content_key
from luthier.data.stages.stage import FILE, LINE
from luthier.recipe.stages.duplicates import NearDuplicatesOptions

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.stream import Stream

MOST_NEAR = 200_000
"""Rows among which near duplicates are looked for; of more it is told that they were not."""
EXAMPLES = 8


@dataclass(frozen=True)
class Place:
    """Where a row was read."""

    file: str
    line: int


@dataclass(frozen=True)
class Overlap:
    """How many rows of `second` have a text that stands in `first` too: the same, or nearly the same."""

    first: str
    second: str
    same: int
    nearly: int
    rows: int
    """Of `second`, in all."""


@dataclass
class Repeats:
    """What was found. `same` rows repeat an earlier one; `conflicting` ones have the same text under another target."""

    same: int = 0
    conflicting: int = 0
    nearly: int | None = None
    """Rows that are nearly an earlier one; None where it was not looked for."""
    examples: list[tuple[Place, Place, float]] = field(default_factory=list)
    """The earlier row, the later one, how alike they are."""
    overlaps: list[Overlap] = field(default_factory=list)


def repeats(stream: Stream, *, texts: Sequence[str], target: Sequence[str] = (), near: bool = True) -> Repeats:
    """Compare all rows by the columns `texts`, case and white space aside; `target` is what may differ between them.

    A row without a text repeats none. Near duplicates are those of the stage of that name, with its defaults.
    """
    first: dict[bytes, int] = {}
    targets: dict[bytes, set[int]] = {}
    leader: list[int] = []
    parts: list[str] = []
    places: list[Place] = []
    options = NearDuplicatesOptions()
    words = Texts(shingle=options.shingle, min_words=options.min_words)
    for batch, _, part in stream.portions():
        cells = list(_texts(batch, texts))
        for text, aim in zip(cells, _texts(batch, target), strict=True):
            if not text.strip():
                leader.append(len(leader))
                continue
            key = hashlib.blake2b(content_key(text).encode(), digest_size=12).digest()
            leader.append(first.setdefault(key, len(leader)))
            targets.setdefault(key, set()).add(hash(aim))
        parts += [part] * batch.num_rows
        places += [Place(f, n) for f, n in zip(batch.column(FILE).to_pylist(), batch.column(LINE).to_pylist(), strict=True)]
        near = near and len(leader) <= MOST_NEAR
        if near:
            words.add(cells)
    found = Repeats(same=sum(lead != row for row, lead in enumerate(leader)))
    sizes = Counter(leader)
    found.conflicting = sum(sizes[first[key]] for key, aims in targets.items() if len(aims) > 1)
    pairs = [(a, b, 1.0) for b, a in enumerate(leader) if a != b]
    alike: list[tuple[int, int, float]] = []
    if near:
        close = words.pairs(threshold=options.threshold)
        alike = [
            (a, b, s)
            for a, b, s in zip(close.first.tolist(), close.second.tolist(), close.similarity.tolist(), strict=True)
            if leader[a] != leader[b]
        ]
        found.nearly = len({b for _, b, _ in alike if leader[b] == b})
    shown = [*pairs[: EXAMPLES // 2], *sorted(alike, key=lambda p: -p[2])[: EXAMPLES - min(len(pairs), EXAMPLES // 2)]]
    found.examples = [(places[a], places[b], s) for a, b, s in shown]
    found.overlaps = _overlaps(leader, alike, parts)
    return found


def _overlaps(leader: Sequence[int], alike: Sequence[tuple[int, int, float]], parts: Sequence[str]) -> list[Overlap]:
    """For each two parts, in the order in which they were given."""
    names, sizes = list(dict.fromkeys(parts)), Counter(parts)
    if len(names) < 2:
        return []
    holders: dict[int, set[str]] = {}
    for lead, part in zip(leader, parts, strict=True):
        holders.setdefault(lead, set()).add(part)
    same = Counter((one, part) for lead, part in zip(leader, parts, strict=True) for one in holders[lead] if one != part)
    links: dict[int, set[str]] = {}
    for a, b, _ in alike:
        links.setdefault(leader[a], set()).update(holders[leader[b]])
        links.setdefault(leader[b], set()).update(holders[leader[a]])
    nearly = Counter(
        (one, part) for lead, part in zip(leader, parts, strict=True) for one in links.get(lead, ()) if one not in holders[lead]
    )
    order = [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]
    return [Overlap(a, b, same[a, b], nearly[a, b], sizes[b]) for a, b in order]


def _texts(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[str]:
    """The texts of each row, those inside lists and nested values too."""
    wanted = [n for n in columns if n in batch.schema.names]
    if not wanted:
        yield from [""] * batch.num_rows
        return
    for row in values(batch.select([*wanted, FILE, LINE])):
        yield "\n".join(t for n in wanted for t in (leaves(row[n]) or ([] if row[n] is None else [str(row[n])])))
