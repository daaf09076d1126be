"""What annotators said of each row, and what is made of it: a decision, a majority, or a tie.

Enters: a store and a question. Leaves: for each item its opinions by annotator, the decision where somebody made one, and the
answer that counts. Several classes of one row are voted on one by one, spans one by one too.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from luthier.errors import DataError
from luthier.feedback.schema import asked, form_of
from luthier.feedback.store import Entry, Store
from luthier.workshop.labelling.question import KEPT_AS, NAMES, Question, Span

Value = tuple[str, ...] | tuple[Span, ...] | str
"""Classes, spans or a text, by the form of the question."""
How = Literal["adjudicated", "agreed", "majority", "tie"]


@dataclass(frozen=True)
class Verdict:
    """The answer that counts, None for a tie, and how it came about."""

    value: Value | None
    how: How


@dataclass
class Opinions:
    """What was said of an item: by annotator, the decision with who made it, and who passed it over."""

    item: str
    content: dict[str, Any]
    said: dict[str, Value] = field(default_factory=dict)
    decided: dict[str, Value] = field(default_factory=dict)
    skipped: list[str] = field(default_factory=list)
    entries: list[Entry] = field(default_factory=list)

    @property
    def differ(self) -> bool:
        """Whether two annotators said different things."""
        return len(set(self.said.values())) > 1

    @property
    def verdict(self) -> Verdict | None:
        """What counts: the last decision, else what all or most say; None where nobody said anything."""
        if self.decided:
            return Verdict(list(self.decided.values())[-1], "adjudicated")
        if not self.said:
            return None
        if not self.differ:
            return Verdict(next(iter(self.said.values())), "agreed")
        value = _most(list(self.said.values()))
        return Verdict(value, "tie" if value is None else "majority")


def opinions(store: Store, question: Question) -> list[Opinions]:
    """What was said to a question, an item each, in the order in which items were first judged."""
    contents = store.contents()
    found: dict[str, Opinions] = {}
    for entry in store.entries(kind="label"):
        name, decides = asked(entry.payload)
        if form_of(entry.payload) != KEPT_AS.get(question.form) or name != question.name:
            continue
        held = found.setdefault(entry.item, Opinions(entry.item, contents[entry.item]))
        held.entries.append(entry)
        if entry.payload.get("skipped"):
            held.skipped.append(entry.annotator)
        else:
            (held.decided if decides else held.said)[entry.annotator] = value_of(entry.payload)
    return list(found.values())


class Poll(NamedTuple):
    """A question that was found in a store, and what was said to it."""

    question: Question
    opinions: list[Opinions]


def poll(store: Store, *, named: str | None = None) -> Poll:
    """The one question of a store, or the one of that name, with the labels that were given.

    Raises DataError where there is none, or several and no name.
    """
    answers = Counter((asked(e.payload)[0], form_of(e.payload)) for e in store.entries(kind="label"))
    fitting = [key for key in answers if named is None or key[0] == named]
    if len(fitting) != 1:
        known = ", ".join(f"{name} ({n} answers)" for (name, _), n in answers.most_common(8))
        fault = "nobody has labelled anything" if not answers else "several questions" if named is None else f"no question {named!r}"
        remedy = f"name one with --question: {known}" if answers else "label something first: luthier data label FILE --labels a,b"
        raise DataError(fault, where=str(store.path), remedy=remedy)
    name, kept = fitting[0]
    form = next(f for f, k in KEPT_AS.items() if k == kept)
    bare = Question(form, named=None if name == NAMES[form] else name)
    found = opinions(store, bare)
    values = [v for o in found for v in (*o.said.values(), *o.decided.values())]
    several = form == "classes" and any(len(v) != 1 for v in values)
    return Poll(Question(form, labels_of(found), several, bare.named), found)


def labels_of(found: list[Opinions]) -> tuple[str, ...]:
    """Every label that somebody gave, sorted."""
    values = [v for o in found for v in (*o.said.values(), *o.decided.values()) if not isinstance(v, str)]
    return tuple(sorted({x.label if isinstance(x, Span) else x for v in values for x in v}))


def value_of(payload: Mapping[str, Any]) -> Value:
    """What a payload says."""
    if "labels" in payload:
        return tuple(sorted(payload["labels"]))
    if "spans" in payload:
        return tuple(sorted(Span(s["start"], s["end"], s["label"]) for s in payload["spans"]))
    return str(payload["text"])


def _most(values: list[Value]) -> Value | None:
    """What more than half say; of several classes, or of spans, each that more than half have. None where one has just half."""
    whole = Counter(values).most_common(2)
    if whole[0][1] * 2 > len(values):
        return whole[0][0]
    if isinstance(values[0], str) or all(len(v) == 1 for v in values):
        return whole[0][0] if whole[0][1] > whole[1][1] else None
    votes = Counter(part for value in values for part in value)
    if any(n * 2 == len(values) for n in votes.values()):
        return None
    return tuple(sorted(part for part, n in votes.items() if n * 2 > len(values)))  # type: ignore[type-var, return-value]


def shown(value: Value) -> str:
    """An answer in a line."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    return ", ".join(f"{x.start}-{x.end} {x.label}" if isinstance(x, Span) else x for x in value) or "none"
