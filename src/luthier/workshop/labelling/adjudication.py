"""Deciding the rows on which annotators differ: what comes next, what everybody said, what is decided.

Enters: a question of a store with what was said to it. Leaves: decisions in the store, beside the opinions, which stay. A decision
counts before any majority; the last one counts. It has the shape of `session.Labelling`, so that one terminal serves both.
"""

from __future__ import annotations

from collections.abc import Sequence

from luthier.feedback.store import Entry, Store, checked_name
from luthier.workshop.labelling.opinions import Poll, Value
from luthier.workshop.labelling.question import Asked, Question, Span


class Adjudication:
    """What one person decides."""

    def __init__(self, store: Store, found: Poll, *, annotator: str, again: bool = False) -> None:
        """`again` shows the rows that are decided already too. Raises DataError for a name that is none."""
        self.store, self.annotator = store, checked_name(annotator)
        self.question: Question = found.question
        differing = [o for o in found.opinions if o.differ]
        asked = [o for o in differing if again or not o.decided]
        self.earlier = len(differing) - len(asked)
        self._said = {o.item: o.said for o in asked}
        self._decided: dict[str, Value] = {o.item: list(o.decided.values())[-1] for o in asked if o.decided}
        self._asked = [Asked(o.content, o.item, "", 0) for o in asked]
        self.rows: Sequence[Asked] = [Asked(o.content, o.item, "", 0) for o in differing]
        self._place = -1

    def next(self) -> Asked | None:
        """The next row on which annotators differ; None at the end."""
        if self._place + 1 >= len(self._asked):
            return None
        self._place += 1
        return self._asked[self._place]

    def back(self) -> Asked | None:
        """The row before the one that is shown; None at the first."""
        if self._place < 1:
            return None
        self._place -= 1
        return self._asked[self._place]

    def answer(self, row: Asked, value: Sequence[str] | Sequence[Span] | str, *, seconds: float | None = None) -> Entry:
        """Write down a decision. Raises DataError for one that is none of the question's."""
        payload = {**self.question.payload(value), "adjudicated": True}
        timed = {} if seconds is None else {"seconds": round(seconds, 2)}
        entry = self.store.append("label", row.content, annotator=self.annotator, payload={**payload, **timed})
        self._decided[row.item] = value if isinstance(value, str) else tuple(value)  # type: ignore[assignment]
        return entry

    def skip(self, row: Asked, *, seconds: float | None = None) -> None:
        """Leave the row undecided: nothing is written, and it comes again."""

    def said(self, row: Asked) -> Value | None:
        """What was decided of the row; None for nothing."""
        return self._decided.get(row.item)

    def others(self, row: Asked) -> dict[str, Value]:
        """What everybody said of the row."""
        return dict(self._said[row.item])

    @property
    def decided(self) -> int:
        """Rows that have a decision by now."""
        return self.earlier + len(self._decided)
