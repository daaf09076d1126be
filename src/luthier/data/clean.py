"""A stream of rows through stages into a new folder: `luthier data clean`.

Enters: a `Stream`, stages, and a folder that is not there yet. Leaves: the folder, written whole or not at all: a file of
rows for each input, `fates.jsonl` (every row that was changed, dropped or quarantined, by which stage and why) and
`report.json`. While it works, each batch that is through is kept in a folder beside it, so that a run which was killed goes
on after the last whole one; the same inputs and stages find it again.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.data.books import READING, Books, Fate
from luthier.data.rows import Quarantined
from luthier.data.stages.chain import Leg, Passed, legs
from luthier.data.stream import Stream
from luthier.data.writing import Format, Writer
from luthier.errors import RunError, SpaceError
from luthier.security.artifacts import new_folder, sha256, write_text

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from luthier.recipe.stages.options import StageOptions

CHANGED = "__changed"
VERSION = 1
"""Of what is kept of a run that is not through."""


@dataclass(frozen=True)
class Cleaned:
    """What was written, and the books."""

    folder: Path
    files: dict[str, int]
    """Name of each file of rows -> its rows."""
    books: Books
    resumed: int
    """Batches that an earlier, killed run had made."""


class _Portion(NamedTuple):
    """A batch on its way, which of its rows were changed, and what is quarantined beside it."""

    batch: pa.RecordBatch
    changed: NDArray[np.bool_]
    quarantined: list[Quarantined]
    part: str


def clean(
    stream: Stream, stages: Sequence[StageOptions], folder: Path, *, format: Format = "parquet", text: Sequence[str] = ("text",)
) -> Cleaned:
    """Send all rows through the stages and write the folder.

    Raises DataError for columns that a stage asks for in vain, SpaceError where the folder is there already or the disk is
    full, RunError where another process writes it.
    """
    need_new(folder)
    planned = legs(stages)
    made, schema = [], stream.schema
    for stages_of in planned:
        made.append(Leg(stages_of, schema, text=text))
        schema = made[-1].schema
    with _workplace(folder, _fingerprint(stream, stages, text)) as place:
        resumed = 0
        for number, leg in enumerate(made):
            before = place / str(number - 1)
            resumed += _walk(leg, number, lambda b=before: _incoming(stream, b), place / str(number))  # type: ignore[misc]
            if number > 0:
                _forget_rows(before)
        with new_folder(folder) as new:
            cleaned = _assemble(stream, stages, place, len(made), schema, new, format)
        shutil.rmtree(place, ignore_errors=True)
    return Cleaned(folder, cleaned[0], cleaned[1], resumed)


def need_new(folder: Path) -> None:
    """Raise SpaceError where an output folder is there already, or is no folder of its own."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise SpaceError("is there already and not empty", where=str(folder), remedy="choose another folder")
    if not folder.name:
        raise SpaceError("is no new folder", where=str(folder), remedy="give one that is not there yet")


@contextmanager
def _workplace(folder: Path, fingerprint: str) -> Iterator[Path]:
    """The folder beside the output that keeps what is done; emptied where it is of another run."""
    place = folder.with_name(f".{folder.name}.work")
    try:
        place.mkdir(parents=True, exist_ok=True)
        lock = (place / "lock").open("w")
    except OSError as error:
        raise SpaceError(f"cannot be written: {error.strerror}", where=str(folder), remedy="choose another folder") from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise RunError("another process is writing it", where=str(folder), remedy="wait for it, or choose another folder") from None
        known = place / "fingerprint"
        if not known.is_file() or known.read_text() != fingerprint:
            for old in place.iterdir():
                if old.is_dir():
                    shutil.rmtree(old)
            write_text(known, fingerprint)
        yield place


def _fingerprint(stream: Stream, stages: Sequence[StageOptions], text: Sequence[str]) -> str:
    told = [VERSION, stream.fingerprint(), list(text), [s.model_dump(mode="json") for s in stages]]
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def _incoming(stream: Stream, before: Path) -> Iterator[_Portion]:
    """What enters a leg: the stream, or what the leg before kept."""
    import numpy as np

    if before.name == "-1":
        for batch, quarantined, part in stream.portions():
            yield _Portion(batch, np.zeros(batch.num_rows, bool), quarantined, part)
        return
    for path in sorted(before.glob("*.arrow")):
        told = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        yield _Portion(*_load(path), [], told["part"])


def _walk(leg: Leg, number: int, incoming: Any, place: Path) -> int:
    """Send every portion through a leg, and keep what comes out; how many portions were there already."""
    place.mkdir(exist_ok=True)
    if (place / "done").is_file():
        return sum(1 for _ in place.glob("*.json"))
    there = 0
    while _whole(place / f"{there:08d}.json"):
        there += 1
    leg.look(portion.batch for portion in incoming())
    at = there - 1
    for at, portion in enumerate(islice(incoming(), there, None), there):
        passed = leg(portion.batch, portion.changed)
        _keep(passed, portion, place / f"{at:08d}", reading=number == 0)
    _put(place / "done", lambda target: target.write_text(str(at + 1)))
    return there


def _whole(path: Path) -> bool:
    """Whether a portion is there and can be read."""
    import pyarrow as pa

    try:
        told = json.loads(path.read_text(encoding="utf-8"))
        return _load(path.with_suffix(".arrow"))[0].num_rows == told["kept"]
    except (OSError, ValueError, KeyError, pa.ArrowException):
        return False


def _keep(passed: Passed, portion: _Portion, path: Path, *, reading: bool) -> None:
    """Write a portion down: the rows first, what is told of them last, so that what is told is there."""
    import pyarrow as pa

    batch = passed.batch.append_column(CHANGED, pa.array(passed.changed))

    def rows(target: Path) -> None:
        with pa.OSFile(str(target), "wb") as sink, pa.ipc.new_file(sink, batch.schema) as writer:
            writer.write_batch(batch)

    _put(path.with_suffix(".arrow"), rows)
    fates = [Fate(q.file, q.line, "quarantined", READING, q.reason) for q in portion.quarantined] + passed.fates
    told = {
        "part": portion.part,
        "read": portion.batch.num_rows + len(portion.quarantined) if reading else 0,
        "fates": fates,
        "counts": passed.counts,
        "kept": passed.batch.num_rows,
        "changed": int(passed.changed.sum()),
    }
    _put(path.with_suffix(".json"), lambda target: target.write_text(json.dumps(told, ensure_ascii=True)))


def _put(path: Path, write: Callable[[Path], object]) -> None:
    """Write a file under another name and rename it. Not synced: what a killed process has renamed is there all the same."""
    temporary = path.with_name(f".{path.name}.part")
    try:
        write(temporary)
        temporary.rename(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise SpaceError(
            f"cannot be written: {error.strerror or error}",
            where=str(path.parent.parent),
            remedy="free some space and give the command again; it goes on where it was",
        ) from error


def _load(path: Path) -> tuple[pa.RecordBatch, NDArray[np.bool_]]:
    import pyarrow as pa

    with pa.memory_map(str(path)) as source:
        batch = pa.ipc.open_file(source).get_batch(0)
    changed = batch.column(CHANGED).to_numpy(zero_copy_only=False)
    return batch.drop_columns([CHANGED]), changed


def _forget_rows(place: Path) -> None:
    """A leg that is through needs the rows of the one before no more, only what is told of them."""
    for path in place.glob("*.arrow"):
        path.unlink()


def _assemble(
    stream: Stream, stages: Sequence[StageOptions], place: Path, count: int, schema: pa.Schema, new: Path, format: Format
) -> tuple[dict[str, int], Books]:
    books = Books()
    with ExitStack() as stack:
        writers = {part: stack.enter_context(Writer(new / f"{part}.{format}", schema, format)) for part in stream.parts}
        fates = stack.enter_context((new / "fates.jsonl").open("w", encoding="utf-8"))
        for path in sorted((place / str(count - 1)).glob("*.json")):
            for number in range(count):
                told = json.loads((place / str(number) / path.name).read_text(encoding="utf-8"))
                books.read += told["read"]
                for fate in (Fate(*f) for f in told["fates"]):
                    books.enter(fate)
                    fates.write(json.dumps(fate._asdict(), ensure_ascii=False) + "\n")
                for stage, counts in told["counts"].items():
                    books.counts.setdefault(stage, Counter()).update(counts)
            books.kept += told["kept"]
            books.changed += told["changed"]
            if told["kept"]:
                writers[told["part"]].write(_load(path.with_suffix(".arrow"))[0])
        files = {writer.path.name: writer.rows for writer in writers.values()}
    books.check()
    if sum(files.values()) != books.kept:
        raise AssertionError(f"{sum(files.values())} rows written, {books.kept} kept")
    report = {
        "rows": books.summary(),
        "files": {name: {"rows": rows, "sha256": sha256(new / name)} for name, rows in files.items()},
        "stages": [s.model_dump(mode="json") for s in stages],
        "sources": described(stream),
        "notes": stream.notes,
    }
    (new / "report.json").write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    return files, books


def described(stream: Stream) -> list[dict[str, Any]]:
    """The sources, as reports have them."""
    return [
        {
            "name": s.name,
            "format": s.format,
            "encoding": str(s.encoding) if s.encoding else None,
            "dialect": str(s.dialect) if s.dialect else None,
            "columns": {f.name: str(f.type) for f in s.schema},
            "bytes": s.size,
            "sha256": s.digest,
        }
        for s in stream.sources
    ]
