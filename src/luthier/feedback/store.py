"""The one store of what people said: choices, ratings, edits, labels; append-only, in a SQLite file.

Enters: who said what about which content. Leaves: entries, by kind, item and annotator. An item is what was judged, under the
hash of its content: two people who judge the same judge the same item, wherever it came from. Nothing is changed or deleted: a
correction is an entry that supersedes another, and what holds now is what none supersedes. An entry that `append` has
given back is on the disk: a process killed later loses nothing of it, and several may write at once.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from luthier.errors import DataError, LuthierError, SpaceError
from luthier.feedback.schema import APPLICATION, KINDS, VERSION, asked, statements
from luthier.registry import nearest

WAIT = 30.0
"""Seconds to wait for another writer."""


class Said(NamedTuple):
    """What somebody said, on its way in. `supersedes` is the entry it corrects; else what they said before to the same question."""

    kind: str
    content: Mapping[str, Any]
    annotator: str
    payload: Mapping[str, Any]
    run: str | None = None
    supersedes: int | None = None


class Entry(NamedTuple):
    """What somebody said: `item` is the hash of what was judged, `time` seconds since 1970, `run` where it came from."""

    id: int
    time: float
    kind: str
    item: str
    annotator: str
    payload: dict[str, Any]
    run: str | None
    supersedes: int | None


class Appended(NamedTuple):
    """The entries that say it, and how many of them were there already, word for word."""

    entries: list[Entry]
    repeated: int


class Made(NamedTuple):
    """An item that was made to be judged, and how: models, seeds."""

    item: str
    content: dict[str, Any]
    source: dict[str, Any]


class Store:
    """An open store; a context manager."""

    def __init__(self, path: str | Path, *, create: bool = True) -> None:
        """Open the file; a missing one is made where `create` is set.

        Raises DataError for a file that is missing, unreadable, no store or one of a newer Luthier, SpaceError for one that
        cannot be made.
        """
        self.path = Path(path)
        if not create and not self.path.exists():
            raise DataError(
                "no such store", where=str(path), remedy="rate something first (luthier feedback MODEL --prompts FILE), or name it"
            )
        if self.path.is_dir():
            raise DataError("is a folder, not a store", where=str(path), remedy="name the file")
        try:
            if not self.path.exists():  # what people wrote is for nobody else's eyes
                os.close(os.open(self.path, os.O_CREAT | os.O_WRONLY, 0o600))
        except OSError as error:
            raise SpaceError(f"cannot be written: {error.strerror}", where=str(path), remedy="choose another place for the store") from None
        with self._faults():
            self._database = sqlite3.connect(self.path, timeout=WAIT, isolation_level=None)
            try:
                self._prepare()
            except BaseException:
                self._database.close()
                raise

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def _prepare(self) -> None:
        if self._value("PRAGMA application_id") != APPLICATION:
            with self._writing():
                self._make()
        if (version := self._value("PRAGMA user_version")) > VERSION:
            raise DataError(
                f"was written by a newer Luthier (version {version} of the store, {VERSION} is known here)",
                where=str(self.path),
                remedy="pip install --upgrade luthier",
            )
        if os.access(self.path, os.W_OK):
            for _ in range(50):  # changing the mode does not wait for other writers by itself
                with contextlib.suppress(sqlite3.OperationalError):
                    self._database.execute("PRAGMA journal_mode = WAL")
                    break
                time.sleep(0.1)
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")

    def _make(self) -> None:
        """Put the tables into an empty file, unless another process was quicker. Raises DataError for a file of something else."""
        if self._value("PRAGMA application_id") == APPLICATION:
            return
        if self._value("SELECT COUNT(*) FROM sqlite_master"):
            raise DataError("is a SQLite file of something else", where=str(self.path), remedy="give another name for the store")
        for statement in statements():
            self._database.execute(statement)

    # ── in ─────────────────────────────────────────────────────────────────────────────────────

    def append(
        self,
        kind: str,
        content: Mapping[str, Any],
        *,
        annotator: str,
        payload: Mapping[str, Any],
        run: str | None = None,
        supersedes: int | None = None,
    ) -> Entry:
        """Write down what somebody said about some content; when it returns, it is on the disk."""
        return self.extend([Said(kind, content, annotator, payload, run, supersedes)]).entries[0]

    def extend(self, said: Iterable[Said]) -> Appended:
        """Write down all or nothing. What an annotator says again, word for word, is not written twice.

        Raises DataError for an unknown kind, a payload that is none, an entry that cannot be superseded.
        """
        found: list[Entry] = []
        repeated = 0
        with self._faults(), self._writing():
            for one in said:
                entry, known = self._append(one)
                found.append(entry)
                repeated += known
        return Appended(found, repeated)

    def _append(self, said: Said) -> tuple[Entry, bool]:
        if said.kind not in KINDS:
            guess = nearest(said.kind, KINDS)
            remedy = f"did you mean {guess}?" if guess else f"one of: {', '.join(KINDS)}"
            raise DataError(f"unknown kind {said.kind!r}", where=str(self.path), remedy=remedy)
        if fault := KINDS[said.kind](said.payload):
            raise DataError(f"not a {said.kind}: {fault}", where=str(self.path))
        annotator = checked_name(said.annotator)
        item = self._keep(said.content)
        corrected = said.supersedes
        if corrected is None:
            held = self._entries("current", kind=said.kind, item=item, annotator=annotator)
            before = [e for e in held if asked(e.payload) == asked(said.payload)]
            if before and before[-1].payload == json.loads(_json(said.payload)):
                return before[-1], True
            corrected = before[-1].id if before else None
        else:
            old = self._rows("SELECT item, annotator FROM current WHERE id = ?", corrected)
            if not old or old[0] != (item, annotator):
                raise DataError(
                    f"entry {corrected} is not what {annotator} said last of this", where=str(self.path), remedy="correct your newest entry"
                )
        values = (_now(), said.kind, item, annotator, _json(said.payload), said.run, corrected)
        made = self._database.execute(
            "INSERT INTO entries (time, kind, item, annotator, payload, run, supersedes) VALUES (?, ?, ?, ?, ?, ?, ?)", values
        )
        return Entry(int(made.lastrowid or 0), *values[:4], json.loads(values[4]), *values[5:]), False

    def _keep(self, content: Mapping[str, Any]) -> str:
        item = item_of(content)
        if not self._rows("SELECT 1 FROM items WHERE item = ?", item):
            self._database.execute("INSERT INTO items VALUES (?, ?, ?)", (item, _now(), _json(content)))
        return item

    def keep(self, request: str, content: Mapping[str, Any], *, source: Mapping[str, Any]) -> Made:
        """Keep an item that was made on a request, so that the next who asks the same is shown the same; the first one stays."""
        with self._faults(), self._writing():
            if not self._rows("SELECT 1 FROM made WHERE request = ?", request):
                item = self._keep(content)
                self._database.execute("INSERT INTO made VALUES (?, ?, ?, ?)", (request, item, _now(), _json(source)))
        found = self.made(request)
        assert found is not None, "it was just written, and nothing is deleted"
        return found

    # ── out ────────────────────────────────────────────────────────────────────────────────────

    def made(self, request: str) -> Made | None:
        """The item that was made on a request; None where there is none."""
        query = "SELECT made.item, content, source FROM made JOIN items USING (item) WHERE request = ?"
        with self._faults():
            rows = self._rows(query, request)
            return Made(rows[0][0], _read(rows[0][1]), _read(rows[0][2])) if rows else None

    def sources(self) -> dict[str, dict[str, Any]]:
        """How each item was made, for those that were made to be judged."""
        with self._faults():
            return {item: _read(source) for item, source in self._rows("SELECT item, source FROM made ORDER BY time DESC")}

    def entries(
        self, *, kind: str | None = None, item: str | None = None, annotator: str | None = None, history: bool = False
    ) -> list[Entry]:
        """What holds now, oldest first: the newest of each annotator; with `history` also what was superseded."""
        with self._faults():
            return self._entries("entries" if history else "current", kind=kind, item=item, annotator=annotator)

    def contents(self) -> dict[str, dict[str, Any]]:
        """What was, or can be, judged, by item."""
        with self._faults():
            return {item: _read(content) for item, content in self._rows("SELECT item, content FROM items")}

    def _entries(self, table: str, **wanted: str | None) -> list[Entry]:
        given = {name: value for name, value in wanted.items() if value is not None}
        where = " AND ".join(f"{name} = ?" for name in given) or "1"
        query = f"SELECT id, time, kind, item, annotator, payload, run, supersedes FROM {table} WHERE {where} ORDER BY id"  # noqa: S608  (our own names)
        return [Entry(*row)._replace(payload=_read(row[5])) for row in self._rows(query, *given.values())]

    # ── SQLite ─────────────────────────────────────────────────────────────────────────────────

    def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return self._database.execute(query, values).fetchall()

    def _value(self, query: str) -> int:
        return int(self._database.execute(query).fetchone()[0])

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction, in which nobody else writes."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            if self._database.in_transaction:  # a full disk has ended it already
                self._database.execute("ROLLBACK")
            raise
        self._database.execute("COMMIT")

    @contextlib.contextmanager
    def _faults(self) -> Iterator[None]:
        """SQLite's errors in words."""
        try:
            yield
        except LuthierError:
            raise
        except UnicodeDecodeError as error:  # of a damaged file SQLite's own message may be no text
            raise self._fault("malformed") from error
        except sqlite3.Error as error:
            raise self._fault(str(error)) from error

    def _fault(self, said: str) -> LuthierError:
        where = str(self.path)
        if "not a database" in said:
            return DataError("is no store: not a SQLite file", where=where, remedy="give another name for the store")
        if "malformed" in said or "Could not decode" in said:
            return DataError("is damaged", where=where, remedy="sqlite3 FILE .recover reads out what can be read; go on in a new store")
        if "locked" in said or "busy" in said:
            return DataError("another process keeps it locked", where=where, remedy="let it finish, and try again")
        if "full" in said:
            return SpaceError("the disk is full; nothing of this was written", where=where, remedy="free some space, and try again")
        return DataError(f"cannot be used: {said}", where=where, remedy="check that you may read and write the file and its folder")


def item_of(content: Mapping[str, Any]) -> str:
    """The name of a content: SHA-256 of its JSON with sorted keys."""
    return hashlib.sha256(_json(content).encode()).hexdigest()


def judged(prompt: str | list[dict[str, Any]], *answers: str) -> dict[str, Any]:
    """The content of answers to a prompt: a text, or messages. Two come in the order of their text, so that a pair is one item."""
    return {"prompt": prompt, "answers": sorted(answers)}


def checked_name(name: str) -> str:
    """An annotator's name without blanks around it. Raises DataError for one that cannot be shown in a line."""
    kept = name.strip()
    if not kept or not kept.isprintable() or len(kept) > 100:
        raise DataError("is no name for an annotator: give up to 100 printable characters", where="annotator", remedy="--annotator ada")
    return kept


def _json(value: Any) -> str:
    try:
        return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    except (TypeError, ValueError) as error:
        raise DataError(f"cannot be kept as JSON: {error}", where="feedback") from None


def _read(text: Any) -> dict[str, Any]:
    """What was kept as JSON. Raises sqlite3.DatabaseError for what is none: the file has been altered."""
    try:
        found = json.loads(text)
    except (TypeError, ValueError):
        found = None
    if not isinstance(found, dict):
        raise sqlite3.DatabaseError("malformed JSON")
    return found


def _now() -> float:
    return round(time.time(), 3)
