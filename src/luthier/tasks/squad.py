"""Answers as files give them, where they stand in the passage, and how an answer that was given is graded.

Enters: the cells of a row. Leaves: `Answers`, with character offsets that hold; and for a given answer exact match and
F1 against the best of them (Rajpurkar et al. 2016, sec. 5; without an answer: Rajpurkar et al. 2018, sec. 4).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from luthier.tasks.texts import normal, token_f1

NEARBY = 30
"""Characters around `answer_start` in which an answer is looked for that does not stand there."""
IMPOSSIBLE = "is_impossible"
LISTS = ("text", "answer_start")


class Answers(NamedTuple):
    """What a row says: every right answer, none where the passage has none.

    The first stands at `start` to `end` in the passage, in characters; `moved` says that the file gave another place.
    """

    texts: tuple[str, ...]
    start: int
    end: int
    moved: bool
    group: str


def answers_of(values: Mapping[str, Any], passage: str, *, label: str, start: str, group: str) -> Answers | str:
    """The answers of a row, or why it cannot be learned."""
    title = values.get(group)
    name = "" if title is None else str(title)
    pairs = [] if _yes(values.get(IMPOSSIBLE)) else _pairs(values.get(label), values.get(start))
    if isinstance(pairs, str):
        return pairs
    if not pairs:
        return Answers((), -1, -1, False, name)
    texts = tuple(text for text, _ in pairs)
    fault = ""
    for text, where in pairs:
        found = place(text, where, passage)
        if isinstance(found, int):
            return Answers(texts, found, found + len(text), where is not None and found != where, name)
        fault = fault or found
    return fault


def place(text: str, start: int | None, passage: str) -> int | str:
    """Where an answer stands: at `start`, or at the one place nearby, or at the only one there is; else why not."""
    if start is not None and start >= 0 and passage.startswith(text, start):
        return start
    places, at = [], passage.find(text)
    while at >= 0:
        places.append(at)
        at = passage.find(text, at + 1)
    if not places:
        return "the answer does not stand in the passage"
    near = places if start is None else [p for p in places if abs(p - start) <= NEARBY]
    if len(near) == 1 or len(places) == 1:
        return (near or places)[0]
    return f"the answer stands in several places{'' if start is None else ', none of them its answer_start'}"


def _pairs(value: Any, start: Any) -> list[tuple[str, int | None]] | str:
    """(text, start) of each answer, whatever the form; none for an empty cell."""
    if isinstance(value, str) and value.lstrip()[:1] in ("{", "["):
        try:
            parsed = json.loads(value)
        except ValueError:
            parsed = value
        if isinstance(parsed, dict) or (isinstance(parsed, list) and all(isinstance(p, dict) for p in parsed)):
            value = parsed
    if isinstance(value, dict):
        if "text" not in value:
            return "answers without a text"
        value, start = value["text"], value.get("answer_start")
    if isinstance(value, list) and value and all(isinstance(v, dict) for v in value):
        value, start = [v.get("text") for v in value], [v.get("answer_start") for v in value]
    texts = value if isinstance(value, list) else [] if value is None or value == "" else [value]
    starts = start if isinstance(start, list) else [start] * len(texts)
    if len(starts) != len(texts):
        return f"{len(texts)} answers with {len(starts)} starts"
    found: list[tuple[str, int | None]] = []
    for text, where in zip(texts, starts, strict=True):
        if not isinstance(text, str):
            return "an answer is not a string"
        at = _number(where)
        if isinstance(at, str):
            return at
        bare = text.strip()
        if not bare:
            return "an answer is blank"
        found.append((bare, None if at is None else at + len(text) - len(text.lstrip())))
    return found


def _number(value: Any) -> int | str | None:
    """A start as a number; of a (start, end) pair the first."""
    if isinstance(value, list | tuple):
        value = value[0] if value else None
    if value is None or value == "":
        return None
    try:
        return int(float(value))
    except (TypeError, ValueError, OverflowError):
        return f"answer_start is not a number: {value!r}"


def _yes(value: Any) -> bool:
    return str(value).strip().lower() in ("true", "1", "yes") if value is not None else False


def grade(given: str, answers: Sequence[str]) -> tuple[float, float]:
    """(exact match, F1) of a given answer, the best over the right ones; "" is no answer.

    As the published script does, answers of which nothing is left are taken for none.
    """
    right = [a for a in answers if normal(a)] or [""]
    return max(float(normal(given) == normal(a)) for a in right), max(token_f1(given, a) for a in right)
