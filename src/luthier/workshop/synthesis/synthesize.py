"""Rows from a model: what `luthier data synthesize` does.

Enters: a file (seed tasks, documents, labelled rows or prompts), a kind with its options, and files whose texts must not be made
again. Leaves: a new folder with the rows (rows.jsonl), what became of each candidate and what it was made from (fates.jsonl), and the
figures (report.json). Beside it stands the journal of all requests: a run that was killed goes on from it with the same command, and
makes what it would have made. Candidates = kept + dropped, or AssertionError.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from luthier.data.rows import read
from luthier.errors import DataError, SpaceError
from luthier.recipe.synthesis.options import SynthesisOptions
from luthier.registry import SYNTHESIS
from luthier.security.artifacts import new_folder, sha256, write_json, write_jsonl
from luthier.workshop.asking.engines import Elsewhere, Here, source_of
from luthier.workshop.asking.journal import Journal
from luthier.workshop.asking.request import Engine
from luthier.workshop.asking.voice import SPENT, Budget, Voice
from luthier.workshop.synthesis.kind import Candidate, Kind
from luthier.workshop.synthesis.known import Known
from luthier.workshop.synthesis.sieve import Fate, Sieve


@dataclass
class Synthesized:
    """What came of it. Asks = answered + without an answer; answered ones without a row in them are unreadable."""

    rows: int = 0
    """Rows of the file, and how many of them could not be used."""
    unusable: int = 0
    fates: list[Fate] = field(default_factory=list)
    asks: int = 0
    answered: int = 0
    unreadable: int = 0
    without: Counter[str] = field(default_factory=Counter)
    rounds: int = 0
    stopped: str = ""
    requests: int = 0
    tokens: int = 0
    failures: dict[str, int] = field(default_factory=dict)

    @property
    def kept(self) -> list[Candidate]:
        return [f.candidate for f in self.fates if f.filter is None]

    def figures(self) -> dict[str, Any]:
        """For the report; `dropped` counts by filter."""
        dropped = Counter(f.filter for f in self.fates if f.filter is not None)
        kept = len(self.fates) - dropped.total()
        if len(self.kept) != kept or self.asks != self.answered + self.without.total():
            raise AssertionError(f"candidates do not balance: {len(self.kept)} kept, {dropped}, {len(self.fates)} in all")
        return {
            "rows_read": self.rows,
            "rows_unusable": self.unusable,
            "stopped": self.stopped,
            "rounds": self.rounds,
            "asks": self.asks,
            "answered": self.answered,
            "without_answer": dict(self.without),
            "unreadable": self.unreadable,
            "candidates": len(self.fates),
            "kept": kept,
            "dropped": dict(dropped),
            "yield": round(kept / max(len(self.fates), 1), 4),
            "spent": {"requests": self.requests, "tokens": self.tokens},
            "failed_tries": self.failures,
        }


def journal_of(out: Path) -> Path:
    """Where the journal of an output folder stands."""
    return out.with_name(f"{out.name}.journal.jsonl")


def synthesize(
    file: Path,
    options: SynthesisOptions,
    *,
    out: Path,
    against: Sequence[Path] = (),
    listener: Callable[[str], None] = lambda text: None,
) -> Synthesized:
    """Make rows into the new folder `out`.

    Raises DataError for files that cannot be used, EndpointError for a model that is not there, SpaceError where `out` is there.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise SpaceError("is there already and not empty", where=str(out), remedy="choose another folder")
    rows = read(file)
    kind: Kind = SYNTHESIS.load(options.type)(options, rows.rows)
    known = _known(kind, [file, *against], options)
    engine = _engine(options)
    journal = Journal(journal_of(out))
    with Voice(engine, journal, budget=Budget(options.max_requests, options.max_total_tokens)) as voice:
        found = _rounds(kind, options, voice, Sieve(options, kind, voice, known), listener)
        found.rows = len(rows.rows) + len(rows.quarantined)
        found.unusable = found.rows - kind.usable
        found.requests, found.tokens, found.failures = journal.requests, journal.tokens, dict(voice.failures)
    with new_folder(out) as folder:
        write_jsonl(folder / "rows.jsonl", [c.row for c in found.kept])
        write_jsonl(folder / "fates.jsonl", [_told(f, engine.identity) for f in found.fates])
        inputs = {str(p): sha256(p) for p in (file, *against)}
        told = {"kind": options.type, "files": inputs, "model": engine.identity, "options": options.model_dump(mode="json")}
        write_json(folder / "report.json", told | found.figures())
    return found


def _rounds(kind: Kind, options: SynthesisOptions, voice: Voice, sieve: Sieve, listener: Callable[[str], None]) -> Synthesized:
    """Round after round, until there are rows enough, nothing is left to ask or to spend, or nothing new comes."""
    found, made, idle = Synthesized(), list[Candidate](), 0
    while not found.stopped:
        asks = kind.asks(found.rounds, made)
        if not asks:
            found.stopped = "everything was asked"
            break
        found.rounds += 1
        answers = iter(voice.ask([r for ask in asks for r in ask.requests]))
        candidates = list[Candidate]()
        spent = False
        for ask in asks:
            own = [next(answers) for _ in ask.requests]
            found.asks += 1
            fault = next((a.why for a in own if a.text is None), None)
            spent = spent or fault == SPENT
            if fault is not None:
                found.without[fault] += 1
                continue
            found.answered += 1
            read = kind.read(ask, [str(a.text) for a in own])
            found.unreadable += not read
            candidates += read
        fates = sieve.sift(candidates, room=options.rows - len(made))
        found.fates += fates
        new = [f.candidate for f in fates if f.filter is None]
        made += new
        idle = 0 if new else idle + 1
        listener(f"round {found.rounds}: {len(candidates)} candidates, {len(new)} kept; {len(made)} of {options.rows} rows")
        if len(made) >= options.rows:
            found.stopped = "there are rows enough"
        elif spent:
            found.stopped = SPENT
        elif idle >= options.patience:
            found.stopped = f"nothing new in {idle} rounds"
    return found


def _engine(options: SynthesisOptions) -> Engine:
    if options.endpoint is not None:
        return Elsewhere(options.endpoint, where="endpoint")
    return Here(source_of(str(options.model), folder=Path.cwd(), where="model"))


def _known(kind: Kind, files: Sequence[Path], options: SynthesisOptions) -> Known:
    """All texts that are there: of files with the kind's columns those, of others every text."""
    known = Known(near=options.near)
    for path in files:
        found = read(path)
        if not found.rows:
            raise DataError("holds no rows", where=str(path))
        for row in found.rows:
            text = kind.text(row.values)
            for each in [text] if text is not None else [v for v in row.values.values() if isinstance(v, str)]:
                known.add(each)
    return known


def _told(fate: Fate, model: str) -> dict[str, Any]:
    """A fate as it is recorded."""
    c = fate.candidate
    outcome = {"fate": "kept"} if fate.filter is None else {"fate": "dropped", "filter": fate.filter, "reason": fate.reason}
    return {"row": c.row, **outcome, "made_from": list(c.made_from), "model": model}
