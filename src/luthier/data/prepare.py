"""Rows to the parts of a data set: read, checked by the task, cleaned, counted and split.

Enters: the `data` section and a function from row to record. Leaves: `Prepared`: records of train,
validation and test, every quarantined row with its reason, and the figures of the data summary.
The books balance: rows in = rows in parts + rows quarantined + rows left out as asked.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.books import Books, Fate
from luthier.data.origin import located
from luthier.data.rows import Quarantined, Row, Rows, cell_text, read
from luthier.data.sources.opened import archive_of
from luthier.data.split import Part, content_key, linked, split
from luthier.errors import DataError
from luthier.registry import nearest
from luthier.security.artifacts import sha256

if TYPE_CHECKING:
    from luthier.data.augment.grow import Made
    from luthier.recipe.sections import Data

PARTS: tuple[Part, ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Words:
    """The words of a text, and the characters [start, end) where each stands; `given` rather than found in the text."""

    forms: tuple[str, ...]
    offsets: tuple[tuple[int, int], ...]
    given: bool


@dataclass(frozen=True)
class Record:
    """A row checked against its task: its texts, its target, and where it came from; its words, where the task is about words.

    `group` is what its column `data.group` holds, "" where there is none.
    """

    text: str
    pair: str | None
    target: Any
    file: str
    line: int
    words: Words | None = None
    group: str = ""

    @property
    def key(self) -> str:
        return content_key(self.text, self.pair)


@dataclass
class Prepared:
    """The parts of a data set and what became of every row."""

    parts: dict[Part, list[Record]]
    quarantined: list[Quarantined]
    summary: dict[str, Any]
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    made: list[Made] = field(default_factory=list)
    """What `data.augment` made; their records stand at the end of the training part."""
    mended: list[Fate] = field(default_factory=list)
    """What `data.mend` did to training records."""


def read_files(data: Data, *, folder: Path) -> tuple[dict[Part, Rows], dict[str, str]]:
    """Read every file of the section; rows by part (train alone where no other file is given), and file hashes."""
    found: dict[Part, Rows] = {}
    hashes: dict[str, str] = {}
    for part in PARTS:
        names = getattr(data, part)
        for path in (p for name in names or [] for p in located(name, data, folder=folder)):
            rows = read(path, format=data.format, encoding=data.encoding, columns=data.columns, separator=data.separator, text=data.text)
            hashes[str(archive_of(path))] = sha256(archive_of(path))
            into = found.setdefault(part, Rows())
            into.rows += rows.rows
            into.quarantined += rows.quarantined
            into.notes += rows.notes
    return found, hashes


def need_columns(rows: Rows, wanted: dict[str, str]) -> None:
    """Raise DataError naming the first wanted column (name -> recipe path) that no row of a file has."""
    found: dict[str, dict[str, None]] = {}
    for row in rows.rows:
        found.setdefault(row.file, {}).update(dict.fromkeys(row.values))
    for file, columns in found.items():
        for name, where in wanted.items():
            if name not in columns:
                guess = nearest(name, columns)
                remedy = (f"did you mean {guess!r}? " if guess else "") + f"the columns are: {', '.join(map(repr, list(columns)[:20]))}"
                raise DataError(f"no column {name!r} in {file}", where=where, remedy=remedy)


def excluded(row: Row, data: Data) -> bool:
    """Whether one of the row's cells is among those to leave out, or not among the only ones to take."""
    if any(cell_text(row.values.get(column)) in values for column, values in data.exclude.items()):
        return True
    return any(cell_text(row.values.get(column)) not in values for column, values in data.only.items())


def exclude(rows: Rows, data: Data) -> int:
    """Take out the rows to leave out; returns how many."""
    if not data.exclude and not data.only:
        return 0
    need_columns(rows, {c: f"data.{where}.{c}" for where in ("exclude", "only") for c in getattr(data, where)})
    before = len(rows.rows)
    rows.rows = [r for r in rows.rows if not excluded(r, data)]
    return before - len(rows.rows)


def assemble(
    read_parts: dict[Part, Rows],
    data: Data,
    *,
    record: Callable[[Row], Record | str],
    stratum: Callable[[Record], str],
    groups: Callable[[Sequence[Record]], Sequence[str]] | None = None,
    seed: int,
    needed: Sequence[Part] = PARTS,
    chosen: Callable[[Sequence[Record], int], Sequence[int]] | None = None,
    cleaned: Books | None = None,
) -> Prepared:
    """Check each row with `record` (a Record, or the reason why not), clean, count and split.

    Records with one of `groups` stay on one side of the split; those with the same texts where None. `chosen` says which
    of the training records are trained on, given them and the seed; all where None. `cleaned` are the books of the stages that the
    rows have been through.

    Raises DataError when too many rows are bad or a part that is `needed` ends empty.
    """
    records: dict[Part, list[Record]] = {}
    quarantined: list[Quarantined] = []
    notes: list[str] = []
    counts: Counter[str] = Counter()
    if cleaned is not None:
        counts["cleaned"] = cleaned.total("dropped")
        counts["read"] += counts["cleaned"]
        notes += _of_cleaning(cleaned)
    for part, rows in read_parts.items():
        if data.group is not None:
            need_columns(rows, {data.group: "data.group"})
        quarantined += rows.quarantined
        notes += rows.notes
        counts["read"] += len(rows.rows) + len(rows.quarantined)
        counts["excluded"] += exclude(rows, data)
        checked = [(row, record(row)) for row in rows.rows]
        records[part] = [_grouped(r, row, data.group) for row, r in checked if isinstance(r, Record)]
        quarantined += [Quarantined(w.file, w.line, r, _excerpt(w)) for w, r in checked if isinstance(r, str)]
    _refuse_bad(quarantined, counts["read"] - counts["excluded"], data.max_bad_share)
    everything = [r for part in records.values() for r in part]
    repeats = _repeats(everything)
    if data.duplicates == "drop":
        counts["dropped"] = _drop_repeats(records)
    _share_out(records, data, stratum=stratum, groups=groups or _texts, seed=seed)
    across = _across(records)
    if chosen is not None:
        taken = chosen(records["train"], seed)
        counts["beyond_limit"] = len(records["train"]) - len(taken)
        records["train"] = [records["train"][i] for i in taken]
    if data.limit is not None and len(records["train"]) > data.limit:
        counts["beyond_limit"] += len(records["train"]) - data.limit
        drawn = sorted(random.Random(seed).sample(range(len(records["train"])), data.limit))
        records["train"] = [records["train"][i] for i in drawn]
    for part in needed:
        if not records[part]:
            raise DataError(
                f"no usable rows for {part}",
                where=f"data.{part}",
                remedy=_first_reason(quarantined) or "give more rows, or a file for each part",
            )
    summary: dict[str, Any] = {
        "rows_read": counts["read"],
        "rows_quarantined": len(quarantined),
        "rows_excluded": counts["excluded"],
        "rows_dropped_by_cleaning": counts["cleaned"],
        "rows_dropped_as_duplicates": counts["dropped"],
        "rows_beyond_limit": counts["beyond_limit"],
        "train": len(records["train"]),
        "validation": len(records["validation"]),
        "test": len(records["test"]),
        "duplicates": repeats["same"],
        "conflicting_duplicates": repeats["conflicting"],
        "train_texts_also_in_test": across,
        "quarantine_reasons": dict(Counter(q.reason.split(":")[0] for q in quarantined).most_common(10)),
    }
    used = sum(len(records[p]) for p in PARTS)
    if cleaned is not None:
        summary["cleaning"] = cleaned.summary()
    left_out = counts["excluded"] + counts["cleaned"] + counts["dropped"] + counts["beyond_limit"]
    if used + len(quarantined) + left_out != counts["read"]:
        raise AssertionError(f"rows do not balance: {summary}")
    return Prepared(records, quarantined, summary, notes=notes)


def _of_cleaning(books: Books) -> list[str]:
    """What the stages did, a line each."""
    found = []
    for stage, outcomes in books.outcomes.items():
        done = ", ".join(f"{outcomes[o]} rows {o}" for o in ("dropped", "changed") if outcomes[o])
        reasons = ", ".join(f"{n} {reason}" for reason, n in books.reasons[stage].most_common(5))
        found.append(f"cleaning, stage {stage}: {done} ({reasons})")
    return found


def quarantine(prepared: Prepared, part: Part, rejected: Mapping[int, str], *, most: float) -> None:
    """Move records of a part (index -> reason), which only the model's tokenizer could tell, to quarantine.

    Raises DataError when too many rows are bad or nothing is left.
    """
    if not rejected:
        return
    records = prepared.parts[part]
    prepared.quarantined += [Quarantined(records[i].file, records[i].line, reason, records[i].text[:200]) for i, reason in rejected.items()]
    prepared.parts[part] = [r for i, r in enumerate(records) if i not in rejected]
    summary = prepared.summary
    summary[part] = len(prepared.parts[part])
    summary["rows_quarantined"] = len(prepared.quarantined)
    summary["quarantine_reasons"] = dict(Counter(q.reason.split(":")[0] for q in prepared.quarantined).most_common(10))
    prepared.notes.append(f"{len(rejected)} {part} rows quarantined: {next(iter(rejected.values()))}")
    _refuse_bad(prepared.quarantined, summary["rows_read"] - summary["rows_excluded"] + summary.get("rows_of_earlier", 0), most)
    if not prepared.parts[part]:
        raise DataError(f"no usable rows for {part}", where=f"data.{part}", remedy=_first_reason(prepared.quarantined))


def _excerpt(row: Row) -> str:
    return ", ".join(f"{k}={v!r}" for k, v in row.values.items())[:200]


def _refuse_bad(bad: list[Quarantined], total: int, most: float) -> None:
    if bad and len(bad) > most * max(total, 1):
        first = bad[0]
        raise DataError(
            f"{len(bad)} of {total} rows cannot be used; first: {first.reason}",
            where=f"{first.file}:{first.line}",
            remedy=f"mend the file, or allow more with data.max_bad_share (now {most})",
        )


def _first_reason(bad: list[Quarantined]) -> str | None:
    return f"rows were quarantined, the first because: {bad[0].reason}" if bad else None


def _repeats(records: list[Record]) -> dict[str, int]:
    targets: dict[str, list[str]] = {}
    for record in records:
        targets.setdefault(record.key, []).append(str(record.target))
    groups = [t for t in targets.values() if len(t) > 1]
    return {"same": sum(len(t) - 1 for t in groups), "conflicting": sum(len(t) for t in groups if len(set(t)) > 1)}


def _drop_repeats(records: dict[Part, list[Record]]) -> int:
    """Keep the first of each (text, target) within a part; returns how many went."""
    dropped = 0
    for part, items in records.items():
        kept = list({(r.key, str(r.target)): r for r in reversed(items)}.values())[::-1]
        dropped += len(items) - len(kept)
        records[part] = kept
    return dropped


def _texts(records: Sequence[Record]) -> list[str]:
    return [r.key for r in records]


def _grouped(record: Record, row: Row, column: str | None) -> Record:
    return record if column is None else replace(record, group=cell_text(row.values.get(column)))


def _share_out(
    records: dict[Part, list[Record]],
    data: Data,
    *,
    stratum: Callable[[Record], str],
    groups: Callable[[Sequence[Record]], Sequence[str]],
    seed: int,
) -> None:
    """Split train into the parts that no file was given for."""
    shares = {
        "validation": 0.0 if data.validation else data.held_out,
        "test": 0.0 if data.test else data.test_share,
    }
    pool = records.get("train", [])
    keys = groups(pool) if data.group is None else linked(groups(pool), [r.group for r in pool])
    parts = split(keys, [stratum(r) for r in pool], seed=seed, **shares)
    for part in PARTS:
        if part == "train" or not getattr(data, part):
            records[part] = [r for r, p in zip(pool, parts, strict=True) if p == part]


def _across(records: dict[Part, list[Record]]) -> int:
    """How many training rows have a text, or a group, that stands in the test part too."""
    tested = records.get("test", [])
    held, groups = {r.key for r in tested}, {r.group for r in tested if r.group}
    return sum(r.key in held or r.group in groups for r in records.get("train", []))
