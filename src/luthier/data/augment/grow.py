"""Training rows to further training rows.

Enters: the rows of the training part, and a list of ways to vary them. Leaves: the made rows, each with what it was made from,
how and by which seed, and for each way what became of all that was asked. Every way varies rows as they were read, never made
ones. A text that stands in the validation or test part is not made, whatever made it, nor one that stands in training already.
"""

from __future__ import annotations

import hashlib
import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.augment.augmenter import Ask, Draft, Source, make
from luthier.data.rows import Row
from luthier.data.split import content_key
from luthier.errors import DataError
from luthier.registry import nearest

if TYPE_CHECKING:
    from luthier.recipe.augment.options import AugmentOptions

Check = Callable[[Sequence[Row]], Sequence[str | None]]
"""The label that a classifier gives each row; None for a row that it cannot read."""
HELD, REPEATED, UNCONFIRMED = "stands in validation or test", "stands in training already", "the classifier gives another label"


@dataclass(frozen=True)
class Made:
    """A made row. `origins` say where the rows that it was made from stand, FILE:LINE."""

    row: Row
    text: str
    label: str
    method: str
    seed: int
    origins: tuple[str, ...]
    source: int
    """The place of the row that it was made from."""

    def lineage(self) -> dict[str, Any]:
        """What is recorded of it."""
        return {"text": self.text, "label": self.label, "method": self.method, "seed": self.seed, "made_from": list(self.origins)}


@dataclass
class Way:
    """What came of one way: made + left out = asked."""

    method: str
    rows: int
    asked: int = 0
    made: int = 0
    left_out: Counter[str] = field(default_factory=Counter)

    def figures(self) -> dict[str, Any]:
        """As they are recorded; `share` is of the rows that were read."""
        share = round(self.made / max(self.rows, 1), 4)
        return {"method": self.method, "asked": self.asked, "made": self.made, "share": share, "left_out": dict(self.left_out)}


@dataclass
class Grown:
    """All made rows, and what came of each way."""

    made: list[Made] = field(default_factory=list)
    ways: list[Way] = field(default_factory=list)

    def digest(self) -> str:
        """SHA-256 of what was made."""
        told = "\x1e".join("\x1f".join((m.method, m.label, m.text)) for m in self.made)
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()


def grow(
    pool: Sequence[Source],
    options: Sequence[AugmentOptions],
    *,
    text: str,
    held: Collection[str],
    fault: Callable[[Row], str | None],
    check: Callable[[str, str], Check],
    seed: int,
    folder: Path,
    place: Callable[[int], str] = "data.augment[{}]".format,
) -> Grown:
    """Vary rows in each of the ways. `text` is the column that is varied, `held` the content keys of the other parts' texts.

    `fault` says what is wrong with a made row, by the rules that read ones are held to; `check` gives the classifier of a run,
    and is told where it is named; `place` says where each way is. Raises what a way raises that cannot be had.
    """
    grown = Grown()
    known = {content_key(s.text) for s in pool}
    for number, section in enumerate(options):
        where = place(number)
        asked = _asked(pool, section, number=number, seed=seed, where=where)
        way = Way(section.type, len(pool), len(asked))
        drafts = make(section, pool, folder=folder, where=where)(asked) if asked else []
        taken = list[Made]()
        for ask, draft in zip(asked, drafts, strict=True):
            found = _made(pool, ask, draft, section.type, text, held, known, fault)
            if isinstance(found, str):
                way.left_out[found] += 1
            else:
                taken.append(found)
        if section.check is not None and taken:
            labels = check(section.check, f"{where}.check")([m.row for m in taken])
            confirmed = [m for m, label in zip(taken, labels, strict=True) if label == m.label]
            if len(confirmed) < len(taken):
                way.left_out[UNCONFIRMED] = len(taken) - len(confirmed)
            taken = confirmed
        way.made = len(taken)
        if way.made + sum(way.left_out.values()) != way.asked:
            raise AssertionError(f"rows do not balance: {way}")
        grown.made += taken
        grown.ways.append(way)
    return grown


def _asked(pool: Sequence[Source], section: AugmentOptions, *, number: int, seed: int, where: str) -> list[Ask]:
    """Which rows are varied how often; each with a seed of its own, which does not hang on the order of the rows."""
    known = {s.label for s in pool}
    for label in section.classes or []:
        if label not in known:
            guess = nearest(label, known)
            remedy = f"did you mean {guess!r}?" if guess else f"there are: {', '.join(sorted(known)[:20])}"
            raise DataError(f"no training row has the label {label!r}", where=f"{where}.classes", remedy=remedy)
    places = [i for i, s in enumerate(pool) if section.classes is None or s.label in section.classes]
    whole, part = divmod(section.share, 1)
    seen = Counter[str]()
    found: list[Ask] = []
    for place in places:
        told = f"{seed}\x1f{number}\x1f{section.type}\x1f{pool[place].label}\x1f{pool[place].text}"
        seen[told] += 1
        base = f"{told}\x1f{seen[told]}"
        times = int(whole) + (random.Random(base).random() < part)
        for copy in range(times):
            digest = hashlib.sha256(f"{base}\x1f{copy}".encode("utf-8", "surrogatepass")).digest()
            found.append(Ask(place, int.from_bytes(digest[:4], "big")))
    return found


def _made(
    pool: Sequence[Source],
    ask: Ask,
    draft: Draft,
    method: str,
    text: str,
    held: Collection[str],
    known: set[str],
    fault: Callable[[Row], str | None],
) -> Made | str:
    """The made row, or why there is none."""
    if draft.text is None:
        return draft.why
    source = pool[ask.place]
    row = Row({**source.row.values, text: draft.text}, source.row.file, source.row.line)
    wrong = fault(row)
    if wrong is not None:
        return f"cannot be used: {wrong}"
    key = content_key(draft.text)
    if key in held:
        return HELD
    if key in known:
        return REPEATED
    known.add(key)
    origins = [source.row, *(pool[p].row for p in draft.others)]
    return Made(row, draft.text, source.label, method, ask.seed, tuple(f"{r.file}:{r.line}" for r in origins), ask.place)
