"""Entities as tags on words: BIO (IOB2), IOB1, BILOU, IOBES, read and written.

Enters: tags such as `B-PER`, or entities as (first word, word after the last, type). Leaves: the one from the other, and
the likeliest tags that a scheme allows. Reading is lenient, as conlleval is (Tjong Kim Sang and De Meulder 2003): a tag
that goes on with nothing begins an entity.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Scheme = Literal["bio", "iob1", "bilou", "iobes"]
OUTSIDE = "O"
TAG = re.compile(r"O|[BIESLU]-.+", re.S)
ENDS, SINGLES = "LE", "US"
LETTERS: dict[str, tuple[str, str, str, str]] = {
    "bio": ("B", "I", "I", "B"),
    "iob1": ("I", "I", "I", "I"),
    "bilou": ("B", "I", "L", "U"),
    "iobes": ("B", "I", "E", "S"),
}
"""First, inner and last word of an entity, and an entity of one word."""


class Entity(NamedTuple):
    """An entity over the words `start` up to, not with, `end`."""

    start: int
    end: int
    label: str


def are_tags(tags: Iterable[str]) -> bool:
    """Whether these are tags of entities: nearly all that are not O are B-..., I-... and the like."""
    counts = Counter(t for t in tags if t and t != OUTSIDE)
    return sum(n for t, n in counts.items() if TAG.fullmatch(t)) > 0.9 * counts.total()


def parts(tag: str) -> tuple[str, str]:
    """Letter and type of a tag; O has no type."""
    return (OUTSIDE, "") if tag == OUTSIDE else (tag[:1], tag[2:])


def detect(sentences: Iterable[Sequence[str]]) -> Scheme:
    """The scheme that tags are in. IOB1 writes B only where an entity follows another of its type, BIO on every first word."""
    letters: set[str] = set()
    first = {"B": 0, "I": 0}
    for tags in sentences:
        before = ""
        for tag in tags:
            letter, label = parts(tag)
            letters.add(letter)
            if label and label != before and letter in first:
                first[letter] += 1
            before = label
    if letters & {"L", "U"}:
        return "bilou"
    if letters & {"E", "S"}:
        return "iobes"
    return "iob1" if first["I"] > first["B"] else "bio"


def entities(tags: Sequence[str]) -> list[Entity]:
    """The entities of a sentence, whatever the scheme."""
    found: list[Entity] = []
    start, label, open_ = 0, "", False
    for i, tag in enumerate([*tags, OUTSIDE]):
        letter, kind = parts(tag)
        if open_ and (letter in (OUTSIDE, "B", *SINGLES) or kind != label):
            found.append(Entity(start, i, label))
            open_ = False
        if letter != OUTSIDE and not open_:
            start, label, open_ = i, kind, True
        if open_ and letter in ENDS + SINGLES:
            found.append(Entity(start, i + 1, label))
            open_ = False
    return found


def written(found: Iterable[Entity], length: int, scheme: Scheme) -> list[str]:
    """Tags of `length` words. The entities must not overlap."""
    first, inner, last, single = LETTERS[scheme]
    tags = [OUTSIDE] * length
    before = Entity(-1, -1, "")
    for entity in sorted(found):
        start, end, label = entity
        letters = [single] if end - start == 1 else [first, *[inner] * (end - start - 2), last]
        if scheme == "iob1" and before.end == start and before.label == label:
            letters[0] = "B"
        tags[start:end] = [f"{letter}-{label}" for letter in letters]
        before = entity
    return tags


def label_space(types: Sequence[str], scheme: Scheme) -> list[str]:
    """Every tag that a head has for these types: O first."""
    letters = "BI" if scheme == "iob1" else "".join(dict.fromkeys(LETTERS[scheme]))
    return [OUTSIDE, *(f"{letter}-{label}" for label in types for letter in letters)]


def follows(before: str | None, after: str | None, scheme: Scheme) -> bool:
    """Whether a tag may stand after another; None is the edge of a sentence, on either side."""
    (a, kind), (b, other) = parts(before or OUTSIDE), parts(after or OUTSIDE)
    same = kind == other
    if scheme == "iob1":
        return b != "B" or (a != OUTSIDE and same)
    if scheme == "bio":
        return b != "I" or (a != OUTSIDE and same)
    _, inner, last, _ = LETTERS[scheme]
    if a in ("B", inner):
        return b in (inner, last) and same
    return b not in (inner, last)


def faults(tags: Sequence[str], scheme: Scheme) -> int:
    """How many times a tag stands where the scheme does not allow it."""
    return sum(not follows(a, b, scheme) for a, b in zip([None, *tags], [*tags, None], strict=True))


def likeliest(scores: NDArray[np.float64], lengths: NDArray[np.int64], labels: Sequence[str], scheme: Scheme) -> NDArray[np.int64]:
    """The allowed tags with the highest sum of log-probabilities (Viterbi 1967): (n, longest, labels) -> (n, longest).

    What stands after a sentence's own words means nothing.
    """
    import numpy as np

    count, longest, width = scores.shape
    allowed = np.array([[follows(a, b, scheme) for b in labels] for a in labels])
    begins, ends = np.array([[follows(None, t, scheme), follows(t, None, scheme)] for t in labels]).T
    barred = np.where(allowed, 0.0, -np.inf)
    best = scores[:, 0] + np.where(begins, 0.0, -np.inf)
    back = np.tile(np.arange(width), (longest, count, 1))
    for place in range(1, longest):
        paths = best[:, :, None] + barred
        real = (place < lengths)[:, None]
        back[place] = np.where(real, paths.argmax(1), back[place])
        best = np.where(real, paths.max(1) + scores[:, place], best)
    found = np.zeros((count, longest), dtype=np.int64)
    tag = (best + np.where(ends, 0.0, -np.inf)).argmax(1)
    for place in range(longest - 1, -1, -1):
        found[:, place] = tag
        tag = back[place, np.arange(count), tag]
    return found
