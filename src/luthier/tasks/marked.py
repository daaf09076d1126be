"""Words with tags, and texts with spans, as they stand in rows.

Enters: rows of any file. Leaves: which columns hold what, and for each row its text, its words with their places, and
its tags or entities. Torch-free.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.data.conll import joined, offsets_of
from luthier.data.prepare import Words
from luthier.data.rows import Row, cell_text
from luthier.errors import DataError
from luthier.tasks import tags as tagged
from luthier.tasks.language import text_fault
from luthier.tasks.tags import OUTSIDE, Entity
from luthier.tasks.words import covered, split

if TYPE_CHECKING:
    from luthier.recipe.sections import Data

WORDS, TAGS, SPANS = ("words", "tokens"), ("tags",), ("spans",)
"""Names of columns that are looked for where data.text and data.label name none."""


class Columns(NamedTuple):
    """Names of the columns: `words` with `tags`, or `text` with `spans`."""

    text: str
    words: str | None
    tags: str | None
    spans: str | None

    @property
    def source(self) -> str:
        return self.words or self.text

    @property
    def target(self) -> str:
        return str(self.tags or self.spans)


class Marked(NamedTuple):
    """A row: its text, its words, and their tags ("" where a word has none) or entities. `moved` counts spans that were."""

    text: str
    words: Words
    tags: tuple[str, ...] | None
    entities: tuple[Entity, ...] = ()
    moved: int = 0

    def names(self, kind: str) -> Iterator[str]:
        """What is learned: types of entities, or tags."""
        if self.tags is None:
            return (e.label for e in self.entities)
        known = (t for t in self.tags if t)
        return (tagged.parts(t)[1] for t in known if t != OUTSIDE) if kind == "entities" else known


def columns_of(data: Data, rows: Sequence[Row]) -> Columns:
    """Find the columns in the rows. Raises DataError where there is none for words or text, or none for tags or spans."""
    names = dict.fromkeys(name for row in rows[:1000] for name in row.values)
    if isinstance(data.label, list):
        raise DataError("several columns for the tags", where="data.label", remedy="name one")

    def lists(name: str) -> bool:
        return any(isinstance(r.values.get(name), list) for r in rows[:1000])

    def nested(name: str) -> bool:
        held = (r.values.get(name) for r in rows[:1000])
        return any(isinstance(v, dict) for cell in held if isinstance(cell, list) for v in cell)

    label = next((n for n in (data.label, *(TAGS + SPANS if data.label == "label" else ())) if n in names), None)
    if label is None:
        raise DataError(
            f"no column {data.label!r}" + (", tags or spans" if data.label == "label" else ""),
            where="data.label",
            remedy=f"name the column of tags or spans; the columns are: {', '.join(map(repr, list(names)[:20]))}",
        )
    if not lists(label):
        raise DataError(
            f"column {label!r} holds no lists",
            where="data.label",
            remedy="a row is a sentence: give a list of tags, one a word, or of spans with start, end and label",
        )
    if nested(label) or (label in SPANS and not any(isinstance(v, str) for r in rows[:1000] for v in r.values.get(label) or ())):
        if data.text not in names:
            raise DataError(f"no column {data.text!r} for the text that spans are in", where="data.text", remedy="name it")
        return Columns(data.text, None, None, label)
    words = next((n for n in (data.text, *WORDS) if n in names and lists(n)), None)
    if words is None:
        raise DataError("no column with lists of words", where="data.text", remedy="name the column of words, or call it words")
    return Columns(data.text, words, label, None)


def marked(values: Mapping[str, Any], place: Columns, *, graded: bool = True) -> Marked | str:
    """What a row says, or why it cannot be used; without its tags where not `graded`: there a text does for words."""
    given = values.get(place.words) if place.words else None
    if place.words and (graded or given is not None) and not (not graded and isinstance(given, str)):
        return _of_words(values, place, given, graded=graded)
    if not graded and not place.words and isinstance(values.get(WORDS[0]), list) and values.get(place.text) is None:
        return _of_words(values, place._replace(words=WORDS[0]), values[WORDS[0]], graded=False)
    text = given if isinstance(given, str) else values.get(place.text)
    fault = text_fault(text)
    if fault:
        return fault
    text = str(text)
    offsets = split(text)
    if not offsets:
        return "text has no words"
    words = Words(tuple(text[a:b] for a, b in offsets), tuple(offsets), given=False)
    if not graded:
        return Marked(text, words, None)
    found = _of_spans(values.get(str(place.spans)), text, offsets)
    return found if isinstance(found, str) else Marked(text, words, None, *found)


def _of_words(values: Mapping[str, Any], place: Columns, given: Any, *, graded: bool) -> Marked | str:
    if not isinstance(given, list) or not given:
        return "no words" if not given else "words are not a list"
    fault = next((f for w in given if (f := text_fault(w))), None)
    if fault:
        return fault.replace("text", "word", 1)
    text, offsets = values.get(place.text) if place.text != place.words else None, values.get("offsets")
    if not isinstance(text, str) or not isinstance(offsets, list) or not _fits(offsets, given, text):
        places = offsets_of(given, text) if isinstance(text, str) else None
        text, offsets = (text, places) if places is not None else joined(given, [True] * len(given))
    words = Words(tuple(given), tuple((a, b) for a, b in offsets), given=True)
    if not graded:
        return Marked(str(text), words, None)
    tags = values.get(str(place.tags))
    if not isinstance(tags, list):
        return "tags are not a list"
    if len(tags) != len(given):
        return f"{len(tags)} tags for {len(given)} words"
    return Marked(str(text), words, tuple(map(cell_text, tags)))


def _fits(offsets: list[Any], words: Sequence[str], text: str) -> bool:
    """Whether these are the places that our own readers found."""
    if len(offsets) != len(words):
        return False
    whole = all(isinstance(o, list) and len(o) == 2 and all(isinstance(n, int) for n in o) for o in offsets)
    return whole and all(0 <= start < end <= len(text) for start, end in offsets)


def _of_spans(spans: Any, text: str, offsets: Sequence[tuple[int, int]]) -> tuple[tuple[Entity, ...], int] | str:
    """Spans of characters as entities over words, and how many had to be moved to the borders of words."""
    if not isinstance(spans, list):
        return "spans are not a list"
    found: list[Entity] = []
    moved = 0
    for span in spans:
        if not isinstance(span, dict) or not isinstance(span.get("label"), str) or not span["label"].strip():
            return "a span without a label"
        start, end = span.get("start"), span.get("end")
        if not (type(start) is int and type(end) is int and 0 <= start < end <= len(text)):
            return f"a span from {start!r} to {end!r} in a text of {len(text)} characters"
        words = covered(offsets, start, end)
        if words is None:
            return "a span without a word"
        moved += (start, end) != (offsets[words[0]][0], offsets[words[1] - 1][1])
        found.append(Entity(*words, span["label"].strip()))
    found.sort()
    if any(a.end > b.start for a, b in itertools.pairwise(found)):
        return "spans overlap, or share a word"
    return tuple(found), moved
