"""One annotator labelling: which row comes next, what was said of it, the way back. The terminal, or a web page, only shows and asks.

Enters: the rows of a file, a question, a store, a way of picking. Leaves: entries in the store, each before the next row is shown.
What this annotator has answered or passed over is not asked again, so that a session goes on where the last one ended. Rows
that others have answered come in between, as many as `overlap` says, since agreement can be told from those alone.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np

from luthier.feedback.schema import asked
from luthier.feedback.store import Entry, Store, checked_name
from luthier.workshop.labelling.learner import Vectors
from luthier.workshop.labelling.opinions import Value, opinions, value_of
from luthier.workshop.labelling.picking import Round, pick
from luthier.workshop.labelling.question import Asked, Question, Span

ORDER = "order"
"""The way of picking that takes rows as they stand in the file."""


class Labelling:
    """What one annotator sees of the rows of a file."""

    def __init__(
        self,
        store: Store,
        rows: Sequence[Asked],
        question: Question,
        *,
        annotator: str,
        strategy: str = ORDER,
        vectors: Callable[[], Vectors] | None = None,
        batch: int = 10,
        overlap: float = 0.0,
        seed: int = 0,
    ) -> None:
        """`vectors` gives those of all rows when a strategy first needs them, once; the others come without.

        Raises DataError for a name that is none.
        """
        self.store, self.rows, self.question = store, rows, question
        self.annotator = checked_name(annotator)
        self.strategy, self.batch, self.overlap = strategy, batch, overlap
        self._draw = np.random.default_rng(seed)
        self._vectors = vectors
        self._held: Vectors | None = None
        self._queue: list[int] = []
        self._seen: list[int] = []
        self._place = -1
        mine = self._mine()
        self.earlier = sum(row.item in mine for row in rows)
        """Rows that this annotator answered or passed over before."""

    # ── what comes next ────────────────────────────────────────────────────────────────────────

    def next(self) -> Asked | None:
        """The next row; after `back`, the one that stood there. None at the end."""
        if self._place + 1 >= len(self._seen):
            if not self._queue:
                self._queue = self._picked()
            if not self._queue:
                return None
            self._seen.append(self._queue.pop(0))
        self._place += 1
        return self.rows[self._seen[self._place]]

    def back(self) -> Asked | None:
        """The row before the one that is shown; None at the first of this session."""
        if self._place < 1:
            return None
        self._place -= 1
        return self.rows[self._seen[self._place]]

    def _picked(self) -> list[int]:
        """The next batch, as numbers of rows: those that others answered are spread over it."""
        mine, seen = self._mine(), set(self._seen)
        left = [i for i, row in enumerate(self.rows) if row.item not in mine and i not in seen]
        found = {o.item: o for o in opinions(self.store, self.question)}
        others = [i for i in left if self.rows[i].item in found and found[self.rows[i].item].said]
        again = min(len(others), self._share(min(self.batch, len(left))))
        chosen = set(others)
        fresh = self._fresh([i for i in left if i not in chosen], min(self.batch, len(left)) - again)
        shared = sorted(self._draw.permutation(others)[: min(self.batch, len(left)) - len(fresh)].tolist())
        places = np.linspace(0, len(fresh), len(shared) + 1)[:-1].astype(int)
        for place, row in sorted(zip(places, shared, strict=True), reverse=True):
            fresh.insert(int(place), row)
        return fresh

    def _share(self, count: int) -> int:
        """How many of so many rows are to be others' too; a fraction of one comes by chance."""
        wanted = count * self.overlap
        return int(wanted) + int(self._draw.random() < wanted - int(wanted))

    def _fresh(self, left: list[int], count: int) -> list[int]:
        if not left or count < 1:
            return []
        if self.strategy == ORDER:
            return left[:count]
        if self._vectors is None:
            return [int(i) for i in self._draw.permutation(left)[:count]]
        if self._held is None:
            self._held = self._vectors()
        return pick(self.strategy, Round(self._held, self._known(), np.array(left), self._draw), count)

    def _known(self) -> dict[int, str]:
        """The class of each row that has one: decided, agreed, by majority, or this annotator's own word where others differ."""
        places = {row.item: i for i, row in enumerate(self.rows)}
        known = {}
        for found in opinions(self.store, self.question):
            verdict = found.verdict
            value = verdict.value if verdict is not None and verdict.value is not None else found.said.get(self.annotator)
            if found.item in places and isinstance(value, tuple) and len(value) == 1 and isinstance(value[0], str):
                known[places[found.item]] = value[0]
        return known

    # ── what is said ───────────────────────────────────────────────────────────────────────────

    def answer(self, row: Asked, value: Sequence[str] | Sequence[Span] | str, *, seconds: float | None = None) -> Entry:
        """Write down an answer; on a row that was answered before, it takes the place of that one.

        Raises DataError for one that is none of the question's.
        """
        return self._write(row, self.question.payload(value), seconds)

    def skip(self, row: Asked, *, seconds: float | None = None) -> Entry:
        """Write down that this annotator passes over the row; what was said of it before holds no more."""
        return self._write(row, self.question.skipped(), seconds)

    def said(self, row: Asked) -> Value | None:
        """What this annotator said of the row; None for nothing, or where it was passed over."""
        entry = self._mine(row.item).get(row.item)
        return None if entry is None or entry.payload.get("skipped") else value_of(entry.payload)

    def others(self, row: Asked) -> dict[str, Value]:
        """What is shown of others' opinions: nothing, so that each is one's own."""
        return {}

    def counts(self) -> Counter[str]:
        """How many rows have which label of this annotator."""
        values = [value_of(e.payload) for e in self._mine().values() if not e.payload.get("skipped")]
        return Counter(part.label if isinstance(part, Span) else part for v in values if not isinstance(v, str) for part in v)

    def _write(self, row: Asked, payload: dict[str, object], seconds: float | None) -> Entry:
        timed = {} if seconds is None else {"seconds": round(seconds, 2)}
        return self.store.append("label", row.content, annotator=self.annotator, payload={**payload, **timed})

    def _mine(self, item: str | None = None) -> dict[str, Entry]:
        """The annotator's own opinions to the question, by item."""
        held = self.store.entries(kind="label", item=item, annotator=self.annotator)
        wanted = asked(self.question.skipped())
        return {e.item: e for e in held if asked(e.payload) == wanted}
