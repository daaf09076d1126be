"""Many files as one stream of rows.

Enters: what a user names, and how it is to be read. Leaves: a `Stream`: batches of one schema, in the order of the files,
each row with its file, its line and its number in the whole; and what cannot be used, with its reason. It can be read again
and gives the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from luthier.data.rows import Quarantined
from luthier.data.sources.inputs import expand
from luthier.data.sources.kinds import conformed, unified
from luthier.data.sources.source import Reading, Source, survey, with_origin
from luthier.data.stages.stage import FILE, LINE, ROW

if TYPE_CHECKING:
    import pyarrow as pa


class Portion(NamedTuple):
    """Some rows of one file: the batch, what is quarantined beside it, and the output that the file belongs to."""

    batch: pa.RecordBatch
    quarantined: list[Quarantined]
    part: str


@dataclass(frozen=True)
class Stream:
    """Rows of several files. `schema` is of its batches, where they came from included."""

    sources: list[Source]
    schema: pa.Schema
    notes: list[str]

    @property
    def parts(self) -> list[str]:
        """The outputs that files belong to, in order."""
        return list(dict.fromkeys(s.input.part for s in self.sources))

    def fingerprint(self) -> str:
        """A hash of all that is read, names included."""
        told = "\x1e".join(f"{s.name}\x1f{s.format}\x1f{s.digest}\x1f{s.encoding}\x1f{s.dialect}\x1f{s.schema}" for s in self.sources)
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    def portions(self) -> Iterator[Portion]:
        """All rows, from the beginning."""
        import pyarrow as pa

        own = pa.schema([f for f in self.schema if f.name != ROW])
        number = 0
        for source in self.sources:
            for batch, quarantined in source.batches():
                rows = pa.array(range(number, number + batch.num_rows), pa.int64())
                fitted = conformed(batch, own)
                yield Portion(pa.RecordBatch.from_arrays([*fitted.columns, rows], schema=self.schema), quarantined, source.input.part)
                number += batch.num_rows


def open_stream(given: Sequence[str], reading: Reading | None = None) -> Stream:
    """Survey all files. Raises DataError for one that cannot be read, and for columns named like those that say where rows came from."""
    import pyarrow as pa

    from luthier.errors import DataError

    inputs, notes = expand(list(given))
    sources = [survey(i, reading or Reading()) for i in inputs]
    schema = unified([s.schema for s in sources])
    taken = next((n for n in (FILE, LINE, ROW) if n in schema.names), None)
    if taken is not None:
        raise DataError(f"has a column {taken!r}, a name of Luthier's own", where=sources[0].name, remedy="rename it")
    notes += [note for s in sources for note in s.notes] + _idle(reading or Reading(), sources)
    return Stream(sources, with_origin(schema).append(pa.field(ROW, pa.int64())), notes)


def _idle(reading: Reading, sources: Sequence[Source]) -> list[str]:
    """Notes on what was said of how files are read, where none of them is read so."""
    formats = {s.format for s in sources}
    idle = {
        "columns": reading.columns is not None and formats.isdisjoint(("csv", "tsv", "conll")),
        "separator": reading.separator is not None and "text" not in formats,
        "query": reading.query is not None and "sql" not in formats,
        "sheet": reading.sheet is not None and "excel" not in formats,
        "encoding": reading.encoding != "auto" and all(s.encoding is None for s in sources),
    }
    return [f"{name} is not read: no file is of a kind that it is for" for name, is_idle in idle.items() if is_idle]
