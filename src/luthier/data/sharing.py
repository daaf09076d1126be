"""A stream of rows shared out to train, validation and test in a new folder: `luthier data split`.

Enters: a `Stream`, how to share it out, and what must not be trained on. Leaves: the folder, written whole or not at all:
`train`, `validation` and `test`, `fates.jsonl`, `report.json`, and `split.jsonl`: the part of each row by its content. Given
that file again, rows fall into the same parts in whatever order and file they stand.

Rows with the same text, nearly the same text, the same passage, or of one group stay on one side; with an encoder, those that mean the
same, too.
"""

from __future__ import annotations

import datetime
import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from luthier.data.books import READING, Books, Fate
from luthier.data.clean import described, need_new
from luthier.data.close import Closeness
from luthier.data.leakage import RUN, Held, crossing
from luthier.data.near import Pairs, Texts
from luthier.data.passages import Passages
from luthier.data.split import Part, content_key, kept_to, linked, split, split_by_time
from luthier.data.stages.stage import FILE, LINE
from luthier.data.stages.texts import joined, need, text_columns
from luthier.data.stream import Stream
from luthier.data.writing import Format, Writer
from luthier.errors import DataError
from luthier.security.artifacts import new_folder, sha256

PARTS: tuple[Part, ...] = ("train", "validation", "test")
SPLIT, LEAK = "split", "leak"


@dataclass(frozen=True)
class Plan:
    """How rows are shared out."""

    by: Literal["random", "stratified", "grouped", "time"] = "random"
    column: str | None = None
    """The labels to stratify by, the groups to keep together, or the times."""
    validation: float = 0.1
    test: float = 0.2
    seed: int = 0
    near: float | None = 0.8
    """Texts at least so alike, or with the same passage, stay on one side; None: only the same texts do."""
    close: Closeness | None = None
    """Texts that mean nearly the same stay on one side, too."""
    text: Sequence[str] = ("text",)
    saved: Path | None = None
    """The `split.jsonl` of an earlier split to keep to."""
    leaks: Literal["remove", "refuse"] = "remove"


@dataclass
class _Gathered:
    """What of every row decides its part."""

    near: Texts = field(default_factory=Texts)
    passages: Passages = field(default_factory=Passages)
    texts: list[str] = field(default_factory=list)
    """Only where leaks are looked for, or what texts mean is compared."""
    keys: list[str] = field(default_factory=list)
    cells: list[Any] = field(default_factory=list)
    where: list[tuple[str, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Shared:
    """What was written."""

    folder: Path
    files: dict[str, int]
    books: Books
    groups: int
    """Groups of more than one row that were kept together."""


def share(stream: Stream, plan: Plan, folder: Path, *, held: Held | None = None, format: Format = "parquet") -> Shared:
    """Share all rows out and write the folder. What is `held` must not be trained on: such rows are removed from train, or refused.

    Raises DataError for missing columns, a part without rows, a leak that is to be refused, or a saved split that cannot be read.
    """
    if (plan.by == "random") != (plan.column is None):
        wrong, remedy = ("no", "say what the column is for: --by") if plan.by == "random" else ("a", "name it with --column")
        raise DataError(f"a split by {plan.by} needs {wrong} column", where="split", remedy=remedy)
    if plan.validation + plan.test >= 1:
        raise DataError("validation and test leave nothing for train", where="split", remedy="make their shares smaller")
    need_new(folder)
    columns = text_columns(stream.schema, [c for c in plan.text if c in stream.schema.names] or None, stage="split")
    if plan.column is not None:
        need(stream.schema, [plan.column], stage="split")
    rows, books, fates = _gather(stream, columns, plan, texts=held is not None or plan.close is not None)
    refused = _untimed(rows, plan)
    groups, crossed = _groups(rows, plan)
    parts = _parts(rows, groups, plan, refused)
    leaked = _leaks(rows, parts, held, plan)
    out = {**refused, **leaked}
    told = {
        "near_duplicates_across": None if crossed is None else sum(a not in out and b not in out for a, b, _ in crossing(crossed, parts)),
        "groups": sum(n > 1 for n in Counter(groups).values()),
        "leaks": len(leaked),
        "held_out_texts": 0 if held is None else len(held),
    }
    for place, reason in sorted(out.items()):
        fates.append(
            Fate(*rows.where[place], "quarantined" if place in refused else "dropped", SPLIT if place in refused else LEAK, reason)
        )
    for fate in fates:
        books.enter(fate)
    with new_folder(folder) as new:
        files = _write(stream, parts, out, new, format)
        books.kept = sum(files.values())
        books.check()
        _refuse_empty(files, plan)
        with (new / "fates.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps(f._asdict(), ensure_ascii=False) + "\n" for f in fates)
        kept = {key: parts[i] for i, key in enumerate(rows.keys) if i not in out}
        with (new / "split.jsonl").open("w", encoding="utf-8") as lines:
            lines.writelines(json.dumps({"key": k, "part": p}) + "\n" for k, p in sorted(kept.items()))
        report = {
            "rows": books.summary(),
            "split": {**_described(plan), **told},
            "files": {name: {"rows": count, "sha256": sha256(new / name)} for name, count in files.items()},
            "sources": described(stream),
            "notes": stream.notes,
        }
        (new / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return Shared(folder, files, books, int(told["groups"] or 0))


def held_out(stream: Stream, *, text: Sequence[str], threshold: float = 0.8, run: int = RUN, close: Closeness | None = None) -> Held:
    """The texts of a stream as what must not be trained on."""
    held = Held(threshold=threshold, run=run, close=close)
    columns = text_columns(stream.schema, [c for c in text if c in stream.schema.names] or None, stage="against")
    for portion in stream.portions():
        files, lines = portion.batch.column(FILE).to_pylist(), portion.batch.column(LINE).to_pylist()
        for words, file, line in zip(joined(portion.batch, columns), files, lines, strict=True):
            held.add(words, f"{file}:{line}")
    return held


def _gather(stream: Stream, columns: list[str], plan: Plan, *, texts: bool) -> tuple[_Gathered, Books, list[Fate]]:
    rows, books, fates = _Gathered(), Books(), list[Fate]()
    for batch, quarantined, _ in stream.portions():
        books.read += batch.num_rows + len(quarantined)
        fates += [Fate(q.file, q.line, "quarantined", READING, q.reason) for q in quarantined]
        if plan.near is not None:
            rows.near.add(joined(batch, columns))
            rows.passages.add(joined(batch, columns))
        if texts:
            rows.texts += joined(batch, columns)
        lists = [batch.column(c).to_pylist() for c in columns]
        rows.keys += [content_key(*cells) for cells in zip(*lists, strict=True)]
        rows.cells += batch.column(plan.column).to_pylist() if plan.column else [None] * batch.num_rows
        rows.where += zip(batch.column(FILE).to_pylist(), batch.column(LINE).to_pylist(), strict=True)
    return rows, books, fates


def _untimed(rows: _Gathered, plan: Plan) -> dict[int, str]:
    """Rows without a time that can be read, where time decides; the times of the others are made numbers."""
    refused: dict[int, str] = {}
    if plan.by == "time":
        for place, cell in enumerate(rows.cells):
            moment = moment_of(cell)
            if moment is None:
                refused[place] = f"no time: {str(cell)[:80]!r} in {plan.column!r}"
            rows.cells[place] = 0.0 if moment is None else moment
    return refused


def moment_of(cell: Any) -> float | None:
    """Seconds since 1970 of a time: ISO 8601 (UTC where no zone is given), a date of Arrow, or a number, which stays what it is."""
    if isinstance(cell, bool) or cell is None:
        return None
    if isinstance(cell, (int, float)):
        return float(cell) if math.isfinite(cell) else None
    if isinstance(cell, datetime.datetime):
        moment = cell
    elif isinstance(cell, datetime.date):
        moment = datetime.datetime(cell.year, cell.month, cell.day)
    else:
        try:
            number = float(str(cell))
            return number if math.isfinite(number) else None
        except ValueError:
            pass
        try:
            moment = datetime.datetime.fromisoformat(str(cell).strip())
        except ValueError:
            return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)).timestamp()


def _groups(rows: _Gathered, plan: Plan) -> tuple[list[str], Pairs | None]:
    """A key for each row that is shared by those that must stay together, the same whatever the order of rows; and the near pairs."""
    keys = rows.keys
    pairs = None if plan.near is None else rows.near.pairs(threshold=plan.near)
    meant = None if plan.close is None else plan.close.pairs(rows.texts)
    if alike := [p for p in (pairs, meant) if p is not None]:
        more = [link for p in alike[1:] for link in zip(p.first.tolist(), p.second.tolist(), strict=True)]
        roots = alike[0].groups(len(keys), more=[*more, *rows.passages.links()]).tolist()
        least: dict[int, str] = {}
        for root, key in zip(roots, keys, strict=True):
            least[root] = min(key, least.get(root, key))
        keys = linked(keys, [least[root] for root in roots])
    if plan.by == "grouped":
        keys = linked(keys, ["" if c is None else str(c).strip() for c in rows.cells])
    return keys, pairs


def _parts(rows: _Gathered, groups: list[str], plan: Plan, refused: Mapping[int, str]) -> list[Part]:
    if plan.by == "time":
        times = [min(rows.cells, default=0.0) if i in refused else c for i, c in enumerate(rows.cells)]
        parts = split_by_time(groups, times, validation=plan.validation, test=plan.test)
    else:
        strata = [str(c) for c in rows.cells] if plan.by == "stratified" else ["all"] * len(groups)
        parts = split(groups, strata, validation=plan.validation, test=plan.test, seed=plan.seed)
    return parts if plan.saved is None else kept_to(parts, groups, rows.keys, read_split(plan.saved))


def read_split(path: Path) -> dict[str, Part]:
    """Content key -> part, of a saved split. Raises DataError where it is none."""
    found: dict[str, Part] = {}
    try:
        with path.open(encoding="utf-8") as lines:
            for number, line in enumerate(lines, 1):
                told = json.loads(line)
                if not isinstance(told, dict) or told.get("part") not in PARTS or not isinstance(told.get("key"), str):
                    raise DataError(
                        "is no line of a split", where=f"{path}:{number}", remedy="give the split.jsonl of `luthier data split`"
                    )
                found[told["key"]] = told["part"]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None
    except ValueError:
        raise DataError("is no saved split", where=str(path), remedy="give the split.jsonl of `luthier data split`") from None
    return found


def _leaks(rows: _Gathered, parts: Sequence[Part], held: Held | None, plan: Plan) -> dict[int, str]:
    """Rows for training or choosing that leak, and why. Raises DataError where they are to be refused."""
    if held is None:
        return {}
    places = [i for i, part in enumerate(parts) if part != "test"]
    found = {places[i]: why for i, why in held.leaks([rows.texts[i] for i in places]).items()}
    if found and plan.leaks == "refuse":
        place, why = next(iter(found.items()))
        raise DataError(
            f"{len(found)} of {len(places)} rows for training stand in what is tested; first: {why}",
            where=":".join(map(str, rows.where[place])),
            remedy="take them out: --leaks remove",
        )
    return found


def _write(stream: Stream, parts: Sequence[Part], out: Mapping[int, str], new: Path, format: Format) -> dict[str, int]:
    import numpy as np
    import pyarrow as pa

    names = np.array([PARTS.index(p) for p in parts], np.int8)
    names[list(out)] = -1
    with ExitStack() as stack:
        writers = [stack.enter_context(Writer(new / f"{part}.{format}", stream.schema, format)) for part in PARTS]
        at = 0
        for batch, _, _ in stream.portions():
            here = names[at : at + batch.num_rows]
            at += batch.num_rows
            for number, writer in enumerate(writers):
                if (here == number).any():
                    writer.write(batch.filter(pa.array(here == number)))
    files = {}
    for writer in writers:
        if writer.rows:
            files[writer.path.name] = writer.rows
        else:
            writer.path.unlink()
    return files


def _refuse_empty(files: Mapping[str, int], plan: Plan) -> None:
    wanted = {"train": 1.0, "validation": plan.validation, "test": plan.test}
    there = {name.partition(".")[0] for name in files}
    for part, asked in wanted.items():
        if asked and part not in there:
            raise DataError(f"no row is left for {part}", where="split", remedy="give more rows, or larger shares")


def _described(plan: Plan) -> dict[str, Any]:
    return {
        "by": plan.by, "column": plan.column, "validation": plan.validation, "test": plan.test, "seed": plan.seed, "near": plan.near,
        "close": plan.close.threshold if plan.close else None, "text": list(plan.text), "kept_to": str(plan.saved) if plan.saved else None,
    }  # fmt: skip
