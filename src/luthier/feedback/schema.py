"""The tables of the store, and what an entry of each kind must say.

Enters: the payload of an entry. Leaves: the reason why it is none. The tables refuse every change of what was written, whoever
writes: `INSERT OR REPLACE` too, which deletes without asking the triggers that watch deletions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, Literal

APPLICATION, VERSION = 0x4C544642, 1
"""What marks a SQLite file as a store of ours (`application_id`), and the form of its tables (`user_version`)."""
PICKS = (0, 1, "tie", "skip")
"""What can be said of two answers: the number of the better one, counted from 0 as they are stored, or one of two words."""

Form = Literal["labels", "spans", "text"]

_TABLES = """
CREATE TABLE items (item TEXT PRIMARY KEY, time REAL NOT NULL, content TEXT NOT NULL);
CREATE TABLE made (request TEXT PRIMARY KEY, item TEXT NOT NULL REFERENCES items (item), time REAL NOT NULL, source TEXT NOT NULL);
CREATE TABLE entries (
  id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, kind TEXT NOT NULL, item TEXT NOT NULL REFERENCES items (item),
  annotator TEXT NOT NULL, payload TEXT NOT NULL, run TEXT, supersedes INTEGER UNIQUE REFERENCES entries (id)
);
CREATE INDEX entries_by_item ON entries (item, annotator, kind);
CREATE VIEW current AS SELECT * FROM entries AS e WHERE NOT EXISTS (SELECT 1 FROM entries AS n WHERE n.supersedes = e.id);
"""
_GUARD = """
CREATE TRIGGER {table}_kept_{verb} BEFORE {verb} ON {table} BEGIN
  SELECT RAISE(ABORT, 'the store is append-only: a correction is a new entry');
END;
"""
_FRESH = """
CREATE TRIGGER {table}_fresh BEFORE INSERT ON {table} WHEN EXISTS (SELECT 1 FROM {table} WHERE {taken}) BEGIN
  SELECT RAISE(ABORT, 'the store is append-only: a correction is a new entry');
END;
"""
_TAKEN = {
    "items": "item = NEW.item",
    "made": "request = NEW.request",
    "entries": "id = NEW.id OR supersedes = NEW.supersedes",
}


def statements() -> list[str]:
    """What makes an empty database a store, in order."""
    guards = [_GUARD.format(table=table, verb=verb) for table in _TAKEN for verb in ("UPDATE", "DELETE")]
    fresh = [_FRESH.format(table=table, taken=taken) for table, taken in _TAKEN.items()]
    tables = [f"{s.strip()};" for s in _TABLES.split(";\n") if s.strip()]
    return [*tables, *guards, *fresh, f"PRAGMA application_id = {APPLICATION}", f"PRAGMA user_version = {VERSION}"]


def _choice(payload: Mapping[str, Any]) -> str | None:
    picked = payload.get("picked")
    return None if picked in PICKS and not isinstance(picked, bool) else f"picked is {picked!r}, none of {', '.join(map(str, PICKS))}"


def _rating(payload: Mapping[str, Any]) -> str | None:
    rating = payload.get("rating")
    try:
        fine = isinstance(rating, bool | int | float) and math.isfinite(rating)
    except OverflowError:  # a whole number beyond all floats
        fine = False
    return None if fine else f"rating is {rating!r}, neither true, false nor a number"


def _edit(payload: Mapping[str, Any]) -> str | None:
    text, of = payload.get("text"), payload.get("of")
    if not isinstance(text, str) or not text.strip():
        return "text is empty"
    return None if of in (0, 1) and not isinstance(of, bool) else f"of is {of!r}, the number of no answer"


def _label(payload: Mapping[str, Any]) -> str | None:
    if not isinstance(payload.get("question", ""), str):
        return "question is no name"
    form = form_of(payload)
    if form is None:
        return "has neither labels, spans nor text"
    if form == "labels":
        return None if all(isinstance(name, str) and name for name in payload["labels"]) else "labels holds something else than names"
    if form == "text":
        return None if payload["text"].strip() or payload.get("skipped") else "text is empty"
    return None if all(_is_span(s) for s in payload["spans"]) else "spans holds something else than start, end (characters) and label"


def form_of(payload: Mapping[str, Any]) -> Form | None:
    """What a label of a text is: names of classes, spans of its characters, or words of the annotator's own."""
    if isinstance(payload.get("labels"), list):
        return "labels"
    if isinstance(payload.get("spans"), list):
        return "spans"
    return "text" if isinstance(payload.get("text"), str) else None


def asked(payload: Mapping[str, Any]) -> tuple[str, bool]:
    """What a judgement answers: the question by its name, and whether as the one who decides where others differ.

    Answers to several questions about one item, and a decision beside its maker's own opinion, stand side by side.
    """
    return str(payload.get("question") or form_of(payload) or ""), bool(payload.get("adjudicated"))


def _is_span(span: Any) -> bool:
    if not isinstance(span, Mapping) or not isinstance(span.get("label"), str):
        return False
    start, end = span.get("start"), span.get("end")
    return isinstance(start, int) and isinstance(end, int) and 0 <= start < end


KINDS: dict[str, Callable[[Mapping[str, Any]], str | None]] = {
    "choice": _choice,
    "rating": _rating,
    "edit": _edit,
    "label": _label,
}
"""kind -> what is wrong with a payload: a choice between two answers, a rating of one, a better text, what was said of a text."""
