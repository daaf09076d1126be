"""What readers did about answers, to entries of the store: ratings, edits, regenerations, by rules that are shown.

Enters: files of chat logs. Leaves: entries in the store, and the books: rows in are rows kept, dropped and quarantined, and for
each rule what it found is what it kept and dropped. Who rated is kept as a hash; what was said stands in the store alone.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

from luthier.data.rows import Quarantined, Row, read
from luthier.errors import DataError
from luthier.feedback.store import Said, Store, judged
from luthier.registry import nearest
from luthier.tasks.language import text_fault
from luthier.workflow.chatlogs import Turn, are_thumbs, turns

Rule = Literal["thumbs", "numbers", "edits", "regenerated"]
RULES: dict[Rule, str] = {
    "thumbs": "a thumb up or down: the answer is good or bad",
    "numbers": "a rating in numbers: kept as it is",
    "edits": "an edited answer: the edit beats the original",
    "regenerated": "an answer written anew: the one kept beats those thrown away",
}
PEOPLE = ("annotator", "user_id", "userId", "user")
CHATS = ("conversation_id", "chat_id", "id")


@dataclass
class Books:
    """What a rule found, and what became of it."""

    rule: Rule
    found: int = 0
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)


@dataclass
class Imported:
    """What became of the rows: `rows` = `kept` + all of `dropped` + `quarantined`."""

    rows: int
    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    quarantined: list[Quarantined] = field(default_factory=list)
    books: dict[Rule, Books] = field(default_factory=dict)
    entries: int = 0
    repeated: int = 0
    notes: list[str] = field(default_factory=list)
    said: list[Said] = field(default_factory=list)

    def keep(self, store: Store) -> None:
        """Put what was said into the store, all or nothing."""
        appended = store.extend(self.said)
        self.entries, self.repeated = len(appended.entries) - appended.repeated, appended.repeated


class _Found(NamedTuple):
    """What a rule makes of a turn: something to say, or a reason for nothing."""

    rule: Rule
    content: Mapping[str, Any] | None
    kind: str
    payload: Mapping[str, Any]
    why: str = ""


def chosen_rules(names: Sequence[str]) -> list[Rule]:
    """The rules of those names; all for none. Raises DataError with the nearest name."""
    for name in names:
        if name not in RULES:
            guess = nearest(name, RULES)
            raise DataError(
                f"unknown rule {name!r}", where="--rules", remedy=f"did you mean {guess}?" if guess else f"some of: {', '.join(RULES)}"
            )
    return [rule for rule in RULES if not names or rule in names]


def import_logs(paths: Sequence[Path], *, rules: Sequence[Rule] = tuple(RULES), annotator: str | None = None) -> Imported:
    """What readers did, to be kept in a store. `annotator` is whose words they are; else each row's own, as a hash.

    Raises DataError for a file that cannot be read, and where no row says anything.
    """
    files = [read(path) for path in paths]
    rows = [row for found in files for row in found.rows]
    bad = [q for found in files for q in found.quarantined]
    imported = Imported(len(rows) + len(bad), quarantined=bad, notes=[note for found in files for note in found.notes])
    imported.said = list(_said(rows, imported, rules, annotator))
    if not imported.said:
        why = ", ".join(f"{count} {reason}" for reason, count in imported.dropped.items())
        quarantined = f"{len(imported.quarantined)} cannot be read, first: {imported.quarantined[0].reason}" if imported.quarantined else ""
        raise DataError(
            f"nothing in {imported.rows} rows to learn from: {'; '.join(w for w in (why, quarantined) if w)}",
            where=", ".join(map(str, paths)),
            remedy="rows hold messages, and their answers rating (true, false or a number), edited or regenerated",
        )
    return imported


def _said(rows: Sequence[Row], imported: Imported, rules: Sequence[Rule], annotator: str | None) -> Iterator[Said]:
    """What the rules make of the rows; the books are kept in `imported`."""
    imported.books = {rule: Books(rule) for rule in rules}
    read_rows: list[tuple[Row, list[Turn]]] = []
    for row in rows:
        found = turns(row.values)
        if isinstance(found, str):
            imported.quarantined.append(Quarantined(row.file, row.line, found, ""))
        else:
            read_rows.append((row, found))
    thumbs = are_thumbs(turn.rating for _, found in read_rows for turn in found)
    values = {turn.rating for _, found in read_rows for turn in found if turn.rating is not None}
    numbers = {v for v in values if not isinstance(v, bool)}
    if numbers:
        imported.notes.append(f"the ratings {_span(numbers)} are read as {'thumbs' if thumbs else 'numbers'}")
    neither = 0.0 if thumbs and -1.0 in numbers else None
    for row, found in read_rows:
        made = [f for turn in found for f in _findings(turn, thumbs=thumbs, neither=neither)]
        wanted = [f for f in made if f.rule in imported.books]
        for finding in wanted:
            books = imported.books[finding.rule]
            books.found += 1
            if finding.content is None:
                books.dropped[finding.why] += 1
            else:
                books.kept += 1
        kept = [f for f in wanted if f.content is not None]
        if kept:
            imported.kept += 1
        elif not made:
            imported.dropped["without a rating, an edit or a regeneration"] += 1
        else:
            imported.dropped[wanted[0].why if wanted else "left out by the rules"] += 1
        who = annotator or _who(row.values)
        yield from (Said(f.kind, f.content, who, f.payload, Path(row.file).name) for f in kept if f.content is not None)


def _span(numbers: set[Any]) -> str:
    known = sorted(numbers)
    return ", ".join(f"{v:g}" for v in known) if len(known) <= 5 else f"from {known[0]:g} to {known[-1]:g}"


def _findings(turn: Turn, *, thumbs: bool, neither: float | None) -> Iterator[_Found]:
    prompt, answer, rating = turn.prompt, turn.answer, turn.rating
    if rating is not None and rating is not False and not math.isfinite(rating):
        yield _Found("numbers", None, "rating", {}, "not a finite number")
    elif isinstance(rating, bool) or (thumbs and rating is not None and rating != neither):
        yield _Found("thumbs", judged(prompt, answer), "rating", {"rating": bool(rating is True or (rating or 0) > 0)})
    elif rating is not None and not thumbs:
        yield _Found("numbers", judged(prompt, answer), "rating", {"rating": float(rating)})
    if turn.edited is not None:
        yield _checked("edits", turn.edited, answer, lambda: (judged(prompt, answer), "edit", {"text": turn.edited, "of": 0}))
    down = rating is False or (thumbs and rating is not None and rating != neither and rating <= 0)
    for thrown in turn.thrown:
        if down:
            yield _Found("regenerated", None, "choice", {}, "the one kept was rated down")
            continue
        content = judged(prompt, answer, thrown)
        picked = {"picked": content["answers"].index(answer)}
        yield _checked("regenerated", thrown, answer, lambda content=content, picked=picked: (content, "choice", picked))  # type: ignore[misc]


def _checked(rule: Rule, text: str, answer: str, make: Callable[[], tuple[Mapping[str, Any], str, Mapping[str, Any]]]) -> _Found:
    """The finding, unless the other text says nothing, or the same."""
    if fault := text_fault(text):
        return _Found(rule, None, "", {}, fault)
    if text.strip() == answer.strip():
        return _Found(rule, None, "", {}, "says the same")
    return _Found(rule, *make())


def _who(values: Mapping[str, Any]) -> str:
    """A name for who rated that tells nothing of them: a hash of the user, else of the conversation, else of the row."""
    for kind, names in (("user", PEOPLE), ("chat", CHATS)):
        for name in names:
            if values.get(name) not in (None, ""):
                return f"{kind}-{_short(str(values[name]))}"
    return f"chat-{_short(json.dumps(values, sort_keys=True, default=str))}"


def _short(text: str) -> str:
    return hashlib.sha256(text.encode(errors="replace")).hexdigest()[:12]
