"""What a kind of synthesis is: the file's rows in, asks out; answers in, candidates out.

What a round asks depends on the rows that were kept before it and the seed alone, so that a run which was killed asks the same
again, and finds its answers in the journal.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

from luthier.data.rows import Row
from luthier.errors import DataError
from luthier.registry import nearest
from luthier.workshop.asking.request import Request

if TYPE_CHECKING:
    from luthier.recipe.synthesis.options import SynthesisOptions
    from luthier.workshop.asking.voice import Voice

ROUND = 16
"""Asks of a round."""
LONGEST = 200_000
"""Characters of an answer that are looked at."""


@dataclass(frozen=True)
class Ask:
    """Requests whose answers are read together. `about` is what their rows are made from, FILE:LINE, `hint` what reading needs."""

    requests: tuple[Request, ...]
    about: tuple[str, ...]
    hint: Any = None


@dataclass(frozen=True)
class Candidate:
    """A row that may be kept; `text` is what it is compared, measured and graded by."""

    row: dict[str, Any]
    text: str
    made_from: tuple[str, ...]


class Kind(Protocol):
    """Made as `Class(options, rows)`."""

    usable: int
    """Rows of the file that have what it needs."""

    def asks(self, number: int, made: Sequence[Candidate]) -> list[Ask]:
        """What round `number` asks; nothing where nothing is left to be asked."""
        ...

    def read(self, ask: Ask, texts: Sequence[str]) -> list[Candidate]:
        """The candidates in the answers to an ask; none where they are nonsense."""
        ...

    def choose(self, candidates: Sequence[Candidate], voice: Voice) -> list[Candidate | str]:
        """What becomes of candidates by the kind's own rule: a candidate, or `filter: reason`."""
        ...

    def text(self, row: dict[str, Any]) -> str | None:
        """What a row that is there already is compared by; None for one that has no such columns."""
        ...


def draw_of(options: SynthesisOptions, *place: object) -> random.Random:
    """A generator that hangs on the seed and the place alone."""
    return random.Random("/".join(map(str, (options.seed, *place))))


def request_of(options: SynthesisOptions, prompt: str, *place: object, **changes: Any) -> Request:
    """A request with a seed of its own."""
    seed = draw_of(options, "request", *place).getrandbits(31)
    return replace(Request(prompt, options.temperature, options.max_tokens, seed), **changes)


def columns(rows: Sequence[Row], names: dict[str, str], *, empty: Sequence[str] = ()) -> list[Row]:
    """The rows with a text in each of the columns (name -> option). Raises DataError for a column that is not there, or where none is."""
    known = {n for r in rows for n in r.values}
    for name, option in names.items():
        if name not in known:
            guess = nearest(name, known)
            remedy = (f"did you mean {guess!r}? " if guess else "") + f"the columns are: {', '.join(map(repr, sorted(known)[:20]))}"
            raise DataError(f"no column {name!r}", where=option, remedy=remedy)
    found = [r for r in rows if all(isinstance(r.values.get(n), str) and r.values[n].strip() for n in names)]
    if not found:
        raise DataError(f"no row has a text in {' and '.join(map(repr, names))}", where=rows[0].file if rows else None)
    return found


def objects(text: str) -> list[dict[str, Any]]:
    """The JSON objects in an answer, whatever stands around them; in a list, in a fence, one a line."""
    text, found, place = text[:LONGEST], list[dict[str, Any]](), 0
    decoder = json.JSONDecoder()
    while (place := text.find("{", place)) >= 0:
        try:
            value, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            place += 1
            continue
        if isinstance(value, dict):
            found.append(value)
        place = end
    return found


def said(value: Any) -> str:
    """A cell of an answer as text: numbers are written out; "" for what is neither."""
    if isinstance(value, str):
        return value.strip()
    return str(value) if isinstance(value, (int, float)) and not isinstance(value, bool) else ""


def listed(rows: Sequence[dict[str, Any]]) -> str:
    """Rows as JSON lines."""
    return "\n".join(json.dumps(r, ensure_ascii=False) for r in rows)


def origin(row: Row) -> str:
    """FILE:LINE."""
    return f"{row.file}:{row.line}"


class Unchosen:
    """The kinds that have no rule of their own keep every candidate."""

    def choose(self, candidates: Sequence[Candidate], voice: Voice) -> list[Candidate | str]:
        """All of them."""
        return list(candidates)
