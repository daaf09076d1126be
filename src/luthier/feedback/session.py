"""One person judging pairs of answers: what comes next, in which order it is shown, what is written down.

Enters: pairs as they are made, and what the person says. Leaves: entries in the store, each before the next pair is shown. What
this person has judged before is not asked again. The terminal, or a web page, only shows and asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import Any, NamedTuple

from luthier.feedback.store import Entry, Made, Store, checked_name


class Turn(NamedTuple):
    """A pair to be judged. `order` says which of its answers stands in which place: the same again when the pair comes back."""

    pair: Made
    order: tuple[int, int]

    @property
    def prompt(self) -> Any:
        return self.pair.content["prompt"]

    @property
    def shown(self) -> list[str]:
        """The answers in the order in which they are shown."""
        return [self.pair.content["answers"][i] for i in self.order]


class Session:
    """What one person sees of a stream of pairs."""

    def __init__(self, store: Store, pairs: Iterator[Made], *, annotator: str, run: str | None = None) -> None:
        """`run` is where the answers come from, for the record. Raises DataError for a name that is none."""
        self.store, self.annotator, self.run = store, checked_name(annotator), run
        self.earlier, self.identical, self.empty = 0, 0, 0
        """Pairs that were judged before, and those left out since their answers are alike or one says nothing."""
        self._pairs = pairs
        self._seen: list[Turn] = []
        self._place = -1

    @property
    def number(self) -> int:
        """Which pair of this session is shown, from 1."""
        return self._place + 1

    def next(self) -> Turn | None:
        """The next pair that this person has not judged; after `back`, the one that stood there. None at the end."""
        if self._place + 1 < len(self._seen):
            self._place += 1
            return self._seen[self._place]
        for pair in self._pairs:
            answers = pair.content["answers"]
            if not all(a.strip() for a in answers):
                self.empty += 1
            elif answers[0] == answers[1]:
                self.identical += 1
            elif self._said(pair.item) is not None:
                self.earlier += 1
            else:
                self._seen.append(Turn(pair, self._order(pair.item)))
                self._place = len(self._seen) - 1
                return self._seen[-1]
        return None

    def back(self) -> Turn | None:
        """The pair before the one that is shown; None at the first of this session."""
        if self._place < 1:
            return None
        self._place -= 1
        return self._seen[self._place]

    def said(self, turn: Turn) -> str | None:
        """What this person said of the pair, in the places as shown: 1, 2, tie, skip, edit; None for nothing."""
        entry = self._said(turn.pair.item)
        if entry is None or entry.kind == "edit":
            return entry and "edit"
        picked = entry.payload["picked"]
        return picked if isinstance(picked, str) else str(turn.order.index(picked) + 1)

    def choose(self, turn: Turn, place: int | None, *, word: str | None = None, seconds: float | None = None) -> Entry:
        """Write down the place (0 or 1, as shown) of the better answer, or a `word`: tie or skip."""
        picked = word if place is None else turn.order[place]
        return self._write("choice", turn, {"picked": picked}, seconds)

    def edit(self, turn: Turn, place: int, text: str, *, seconds: float | None = None) -> Entry:
        """Write down a better text, made of the answer at `place`."""
        return self._write("edit", turn, {"text": text, "of": turn.order[place]}, seconds)

    def _write(self, kind: str, turn: Turn, payload: dict[str, Any], seconds: float | None) -> Entry:
        before = self._said(turn.pair.item)
        timed = {} if seconds is None else {"seconds": round(seconds, 2)}
        return self.store.append(
            kind,
            turn.pair.content,
            annotator=self.annotator,
            payload={**payload, "order": list(turn.order), **timed},
            run=self.run,
            supersedes=before.id if before else None,
        )

    def _said(self, item: str) -> Entry | None:
        """What this person said of a pair: a choice or an edit, whichever came last."""
        found = [e for e in self.store.entries(item=item, annotator=self.annotator) if e.kind in ("choice", "edit")]
        return found[-1] if found else None

    def _order(self, item: str) -> tuple[int, int]:
        """By chance, but the same for a person and a pair."""
        odd = hashlib.sha256(f"{self.annotator}\x1f{item}".encode()).digest()[0] & 1
        return (1, 0) if odd else (0, 1)
