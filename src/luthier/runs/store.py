"""Runs: one folder each, and a registry that can be lost.

A run folder holds facts: `recipe.yaml` (every value), `run.json` (sources, data fingerprints,
versions, hardware, status, lineage), `log.jsonl` (one line an update, the same on every repeat),
`evaluations.jsonl`, `scores.json`, `data/`, `checkpoints/`, `model/`, `predictions/` and
`report.html`. The registry (`runs.db`, SQLite in WAL mode) is an index over the folders, rebuilt
from them whenever it is missing or behind.
"""

from __future__ import annotations

import contextlib
import json
import os
import sqlite3
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.errors import Forgotten, RunError, SpaceError
from luthier.registry import nearest
from luthier.security.artifacts import write_json


@dataclass(frozen=True)
class Run:
    """One run folder."""

    folder: Path

    @property
    def id(self) -> str:
        return self.folder.name

    @property
    def facts(self) -> dict[str, Any]:
        """`run.json`. Raises RunError when it cannot be read."""
        return self._json("run.json")

    @property
    def scores(self) -> dict[str, Any]:
        """`scores.json`: methods -> scores. Raises RunError before the run is done."""
        return self._json("scores.json")

    @property
    def checkpoints(self) -> Path:
        return self.folder / "checkpoints"

    @property
    def model(self) -> Path:
        return self.folder / "model"

    @property
    def report(self) -> Path:
        return self.folder / "report.html"

    @property
    def good(self) -> bool:
        """Whether no probe got worse by more than the recipe allows."""
        return self.facts.get("good", True) is not False

    def refuse_forgotten(self) -> None:
        """Raise Forgotten where the run is not good, with each probe that says so."""
        if self.good:
            return
        form = "probe {probe}: {metric} went from {before:.4f} to {after:.4f}, worse by {worse_by:.4f} ({limit})"
        said = [form.format(**failed) for failed in self.facts["failed"]]
        raise Forgotten(
            f"the run is saved, but not good: {'; '.join(said)}",
            where="evaluation.fail_if",
            remedy="protect what was there (retention: distill, ewc, l2sp or soup), train less, or allow more",
        )

    def record(self, **facts: Any) -> None:
        """Add to `run.json`."""
        path = self.folder / "run.json"
        known = self.facts if path.exists() else {}
        write_json(path, {**known, **facts})
        Registry(self.folder.parent).note(self)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """A JSONL file of the run; empty where there is none."""
        path = self.folder / name
        if not path.exists():
            return []
        try:
            return [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line.strip()]
        except ValueError as error:
            raise RunError(f"{name} cannot be read: {error}", where=str(self.folder)) from None

    def _json(self, name: str) -> dict[str, Any]:
        path = self.folder / name
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise RunError(f"has no {name}", where=str(self.folder), remedy=f"is the run finished? luthier resume {self.folder}") from None
        except (OSError, ValueError) as error:
            raise RunError(f"{name} cannot be read: {error}", where=str(self.folder)) from None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the run for this process. Raises RunError when another process has it."""
        import fcntl

        with (self.folder / ".lock").open("w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise RunError("another process is working on this run", where=str(self.folder), remedy="wait for it, or stop it") from None
            try:
                yield
            finally:
                fcntl.flock(file, fcntl.LOCK_UN)


def create(root: Path, name: str) -> Run:
    """A new run folder `<root>/<name>-<number>`. Raises SpaceError when it cannot be made."""
    safe = "".join(c if c.isalnum() or c in "-_." else "-" for c in name).strip("-.") or "run"
    number = 1
    while True:
        folder = root / f"{safe}-{number}"
        try:
            folder.mkdir(parents=True)
            return Run(folder.resolve())
        except FileExistsError:
            if not root.is_dir():
                raise SpaceError("is not a folder", where=str(root), remedy="choose another with output.folder") from None
            number += 1
        except OSError as error:
            raise SpaceError(
                f"cannot be written: {error.strerror}", where=str(root), remedy="choose another folder with output.folder"
            ) from None


def find(name: str | Path, *, root: Path = Path("runs")) -> Run:
    """The run of a folder, an id in `root`, or a unique beginning of one; `latest` is the newest.

    Raises RunError with the nearest id.
    """
    path = Path(name)
    if (path / "run.json").is_file():
        return Run(path.resolve())
    runs = {run.id: run for run in every(root)}
    text = str(name)
    if text == "latest" and runs:
        return max(runs.values(), key=lambda r: r.facts.get("started", 0))
    if text in runs:
        return runs[text]
    close = [r for r in runs if r.startswith(text)]
    if len(close) == 1:
        return runs[close[0]]
    guess = nearest(text, runs)
    remedy = f"did you mean {guess}?" if guess else "see luthier runs"
    if close:
        remedy = f"could be any of {', '.join(sorted(close)[:6])}"
    raise RunError(f"no run {text!r} in {root}", remedy=remedy)


def every(root: Path) -> list[Run]:
    """All run folders below `root`, by name."""
    return [Run(p.parent.resolve()) for p in sorted(root.glob("*/run.json"))]


class Registry:
    """The index of a folder of runs; a cache, never the truth."""

    _COLUMNS = ("id", "folder", "status", "started", "task", "model", "metric", "value", "low", "high", "parent")

    def __init__(self, root: Path) -> None:
        self._root = root

    def _open(self) -> sqlite3.Connection:
        path = self._root / "runs.db"
        for attempt in (1, 2):
            connection = sqlite3.connect(path, timeout=10)
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.execute(f"CREATE TABLE IF NOT EXISTS runs ({', '.join(self._COLUMNS)}, facts_mtime REAL, PRIMARY KEY (id))")
                connection.execute("SELECT facts_mtime FROM runs LIMIT 1")
                return connection
            except sqlite3.DatabaseError:
                connection.close()
                if attempt == 2:
                    raise
                for suffix in ("", "-wal", "-shm"):  # a damaged index is thrown away and rebuilt
                    path.with_name(path.name + suffix).unlink(missing_ok=True)
        raise AssertionError("unreachable")

    def note(self, run: Run) -> None:
        """Put one run's facts into the index."""
        with contextlib.suppress(sqlite3.Error, OSError), contextlib.closing(self._open()) as connection, connection:
            self._put(connection, run)

    def rows(self) -> list[dict[str, Any]]:
        """All runs, newest first; the index is brought up to date with the folders first."""
        with contextlib.closing(self._open()) as connection, connection:
            connection.row_factory = sqlite3.Row
            known = {r["id"]: r["facts_mtime"] for r in connection.execute("SELECT id, facts_mtime FROM runs")}
            runs = {run.id: run for run in every(self._root)}
            for gone in set(known) - set(runs):
                connection.execute("DELETE FROM runs WHERE id = ?", (gone,))
            for run in runs.values():
                if known.get(run.id) != _mtime(run):
                    with contextlib.suppress(RunError):
                        self._put(connection, run)
            query = f"SELECT {', '.join(self._COLUMNS)} FROM runs ORDER BY started DESC"  # noqa: S608  (our own names)
            found = connection.execute(query).fetchall()
        return [dict(row) for row in found]

    def _put(self, connection: sqlite3.Connection, run: Run) -> None:
        facts = run.facts
        score = facts.get("score") or {}
        values = (
            run.id,
            str(run.folder),
            "not good" if facts.get("status") == "done" and facts.get("good") is False else facts.get("status"),
            facts.get("started"),
            facts.get("task"),
            facts.get("model"),
            score.get("metric"),
            score.get("value"),
            score.get("low"),
            score.get("high"),
            facts.get("parent"),
            _mtime(run),
        )
        places = ", ".join("?" * len(values))
        connection.execute(f"INSERT OR REPLACE INTO runs VALUES ({places})", values)  # noqa: S608  (placeholders only)


def _mtime(run: Run) -> float:
    return os.stat(run.folder / "run.json").st_mtime


def now() -> float:
    """Seconds since 1970, to the millisecond."""
    return round(time.time(), 3)
