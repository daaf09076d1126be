"""One file, understood and read: first a survey (format, encoding, dialect, columns), then its rows as Arrow batches.

Enters: an `Input`. Leaves: a `Source`, which can be read as often as needed in bounded memory, and gives the same rows every
time or raises. No file is ever written to.
"""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, NamedTuple

from luthier.data.rows import Quarantined, Row, header_of, refuse_twice, width_fault
from luthier.data.sources import columnar, documents, json_values
from luthier.data.sources.delimited import Dialect, delimiter_of, records, tsv_quoting
from luthier.data.sources.encoding import Encoding, detect
from luthier.data.sources.inputs import Input, format_of
from luthier.data.sources.kinds import MOST_COLUMNS, Kinds, column, too_many, unfit
from luthier.data.sources.lines import Line, lines, reader
from luthier.data.sources.opened import archive_of, opened
from luthier.data.sources.spool import Spool, query, spreadsheet
from luthier.errors import DataError
from luthier.security.artifacts import sha256

if TYPE_CHECKING:
    import pyarrow as pa

BATCH_ROWS = 8192
BATCH_CHARACTERS = 16 << 20
COLUMNAR = ("parquet", "arrow")


@dataclass(frozen=True)
class Reading:
    """How files are to be read, where their names and contents do not say."""

    format: str = "auto"
    encoding: str = "auto"
    columns: list[str] | None = None
    """Names of the columns, for files without a header line."""
    separator: str | None = None
    """What stands between the documents of a text file; a file is one document where absent."""
    text: str = "text"
    """The column that texts get where a file has none."""
    query: str | None = None
    """What a database is asked."""
    sheet: str | None = None
    """Of a spreadsheet; the first where absent."""


class Read(NamedTuple):
    """Some rows of a file, with `__file` and `__line`, and those that cannot be used."""

    batch: pa.RecordBatch
    quarantined: list[Quarantined]


@dataclass(frozen=True)
class Source:
    """A file, understood."""

    input: Input
    format: str
    schema: pa.Schema
    digest: str
    """SHA-256 of the file, or of what a database answered."""
    size: int
    encoding: Encoding | None = None
    dialect: Dialect | None = None
    notes: list[str] = field(default_factory=list)
    items: Callable[[], Iterator[Row | Quarantined]] | None = None
    """The rows, one by one; None for tables."""

    @property
    def name(self) -> str:
        return self.input.name

    def describe(self) -> str:
        """One line for people."""
        shown = [self.format, *([str(self.encoding)] if self.encoding else []), *([str(self.dialect)] if self.dialect else [])]
        names = ", ".join(self.schema.names[:8]) + (", ..." if len(self.schema) > 8 else "")
        return f"{self.name}: {', '.join(shown)}; {len(self.schema)} columns: {names}"

    def batches(self) -> Iterator[Read]:
        """All rows."""
        if self.items is not None:
            yield from _packed(self.items(), self.schema, self.name)
        else:
            assert self.input.path is not None
            yield from _tabular(self.input.path, self.format, self.name)


def survey(given: Input, reading: Reading) -> Source:
    """Look through a file. Raises DataError for one that cannot be read at all."""
    refuse_twice(reading.columns or (), "columns")
    if given.path is None:
        if reading.query is None:
            raise DataError("a database needs a query", where=given.name, remedy="give one: SELECT text, label FROM rows")
        return _spooled(given, "sql", Spool(query(given.url, reading.query), given.name))
    kind = format_of(given.path) if reading.format == "auto" else reading.format
    if kind == "excel":
        return _spooled(given, kind, Spool(spreadsheet(given.path, sheet=reading.sheet), given.name))
    size, digest = _look(given.path)
    if kind in COLUMNAR:
        return Source(given, kind, columnar.schema_of(given.path, kind), digest, size)
    path = given.path

    def open_again() -> AbstractContextManager[BinaryIO]:
        return opened(path, size=size, digest=digest)

    encoding = detect(open_again, given.name, wanted=reading.encoding)
    notes = [f"{given.name}: {encoding.note}"] if encoding.note else []
    found = Source(given, kind, None, digest, size, encoding=encoding, notes=notes)
    return _FORMATS[kind](found, reading, functools.partial(_lines, open_again, encoding), open_again)


def _look(path: Path) -> tuple[int, str]:
    archive = archive_of(path)
    with opened(archive):  # refuses what is not there or no regular file
        pass
    return archive.stat().st_size, sha256(archive)


def _lines(open_again: Callable[[], AbstractContextManager[BinaryIO]], encoding: Encoding, newline: str | None = None) -> Iterator[Line]:
    with open_again() as stream:
        yield from lines(stream, encoding, newline=newline)


def _spooled(given: Input, kind: str, spool: Spool) -> Source:
    digest, size = hashlib.sha256(), 0
    for piece in spool.bytes():
        digest.update(piece)
        size += len(piece)
    return _surveyed(Source(given, kind, None, digest.hexdigest(), size), spool.rows)


def _surveyed(source: Source, items: Callable[[], Iterator[Row | Quarantined]]) -> Source:
    """The source with the schema that its rows have, all of them looked at."""
    kinds, count = Kinds(), 0
    for item in items():
        count += 1
        if isinstance(item, Row):
            kinds.add(item.values, f"{item.file}:{item.line}")
    if not count:
        raise DataError("holds no rows", where=source.name, remedy="give a file with at least one row")
    return replace(source, schema=kinds.schema(), items=functools.partial(_fit, items) if kinds.odd else items)


def _fit(items: Callable[[], Iterator[Row | Quarantined]]) -> Iterator[Row | Quarantined]:
    """Rows with names or numbers that no file can hold are quarantined."""
    for item in items():
        fault = unfit(item.values) if isinstance(item, Row) else ""
        yield Quarantined(item.file, item.line, fault, "") if fault else item


def _delimited(source: Source, reading: Reading, each: Callable[..., Iterator[Line]], _: Any) -> Source:
    first = next((line.text for line in each() if line.text.strip()), "")
    dialect = Dialect(delimiter_of(first))
    if source.format == "tsv":
        dialect = Dialect("\t", tsv_quoting(each))
    header = reading.columns
    if header is None:
        top = next(records(each(), dialect), None)
        if top is not None and len(top.cells or []) > MOST_COLUMNS:
            raise too_many(len(top.cells or []), source.name)
        if top is not None and top.fault:
            raise DataError(f"has no header line that can be read: {top.fault}", where=f"{source.name}:{top.line}", remedy="mend it")
        header = header_of(top.cells if top else None, f"{source.name}:{top.line if top else 1}")
    names = header

    def items() -> Iterator[Row | Quarantined]:
        following = records(each(), dialect)
        if reading.columns is None:
            next(following)
        width, name = len(names), source.name
        for found in following:
            cells = found.cells
            if cells is not None and len(cells) == width:
                yield Row(dict(zip(names, cells, strict=True)), name, found.line)
            else:
                excerpt = found.excerpt or dialect.delimiter.join((cells or [])[:50])[:200]
                yield Quarantined(name, found.line, found.fault or width_fault(cells, names), excerpt)

    if next(items(), None) is None:
        raise DataError("holds no rows", where=source.name, remedy="give a file with a header line and at least one row")
    kinds = Kinds()
    kinds.add(dict.fromkeys(names, ""), source.name)
    return replace(source, dialect=dialect, schema=kinds.schema(), items=items)


def _jsonl(source: Source, reading: Reading, each: Callable[..., Iterator[Line]], _: Any) -> Source:
    def items() -> Iterator[Row | Quarantined]:
        for found in json_values.each_line(each(newline="\n")):
            yield _row(found, source.name)

    return _surveyed(source, items)


def _row(found: json_values.Value, name: str) -> Row | Quarantined:
    return Quarantined(name, found.line, found.fault, found.excerpt) if found.fault else Row(found.value, name, found.line)


def _json(source: Source, reading: Reading, each: Callable[..., Iterator[Line]], open_again: Any) -> Source:
    """A list is read item by item; anything else is small enough to be read at once, or one object a line."""
    assert source.encoding is not None
    encoding = source.encoding
    with open_again() as stream:
        first = reader(stream, encoding).read(1 << 16).lstrip()[:1]
    if first == "[":

        def items() -> Iterator[Row | Quarantined]:
            with open_again() as stream:
                for number, (_, value) in enumerate(json_values.each_item(reader(stream, encoding)), 1):
                    row = {reading.text: value} if isinstance(value, str) else value
                    fault = json_values.object_fault(row)
                    yield Quarantined(source.name, number, fault, str(value)[:200]) if fault else Row(row, source.name, number)

        try:
            return _surveyed(source, items)
        except ValueError as error:
            raise DataError(f"is not JSON: {error}", where=source.name, remedy="mend the file, or use JSONL") from None
    with open_again() as stream:
        content = reader(stream, encoding).read(documents.MOST + 1)
    if len(content) > documents.MOST:
        with open_again() as stream:
            line = reader(stream, encoding).readline(1 << 20)
        if isinstance(json_values.parse(line), dict):
            return _jsonl(replace(source, notes=[*source.notes, f"{source.name}: one object a line; read as JSONL"]), reading, each, None)
        raise DataError(
            f"is one JSON object of more than {documents.MOST >> 20} Mi characters",
            where=source.name,
            remedy="write a list, or one row a line",
        )
    rows, notes = documents.whole(content, Path(source.name), kind="json")
    return _surveyed(replace(source, notes=[*source.notes, *notes]), lambda: iter(rows))


def _text(source: Source, reading: Reading, _: Any, open_again: Any) -> Source:
    assert source.encoding is not None
    encoding = source.encoding

    def items() -> Iterator[Row | Quarantined]:
        with open_again() as stream:
            yield from documents.documents(
                reader(stream, encoding), source.name, separator=reading.separator, column=reading.text, mixed=encoding.mixed
            )

    return _surveyed(source, items)


def _labelled(source: Source, reading: Reading, each: Callable[..., Iterator[Line]], _: Any) -> Source:
    return _surveyed(source, lambda: documents.labelled_lines(each(newline="\n"), source.name, column=reading.text))


def _conll(source: Source, reading: Reading, each: Callable[..., Iterator[Line]], _: Any) -> Source:
    told: list[str] = []
    found = _surveyed(
        source,
        lambda: documents.sentences(each(newline="\n"), Path(source.name), kind=source.format, columns=reading.columns, notes=told),
    )
    return replace(found, notes=[*found.notes, *told])


_FORMATS: dict[str, Callable[..., Source]] = {
    "csv": _delimited,
    "tsv": _delimited,
    "jsonl": _jsonl,
    "json": _json,
    "text": _text,
    "labelled": _labelled,
    "conll": _conll,
    "conllu": _conll,
}


def _packed(items: Iterator[Row | Quarantined], schema: pa.Schema, name: str) -> Iterator[Read]:
    """Rows and quarantined rows in batches of bounded size."""
    rows: list[Row] = []
    bad: list[Quarantined] = []
    size = 0
    for item in items:
        if isinstance(item, Quarantined):
            bad.append(item)
        else:
            rows.append(item)
            for value in item.values.values():
                size += len(value) if isinstance(value, str) else 64
        if len(rows) + len(bad) >= BATCH_ROWS or size > BATCH_CHARACTERS:
            yield _batch(rows, bad, schema, name)
            rows, bad, size = [], [], 0
    if rows or bad:
        yield _batch(rows, bad, schema, name)


def _batch(rows: list[Row], bad: list[Quarantined], schema: pa.Schema, name: str) -> Read:
    import pyarrow as pa

    try:
        arrays = [column([r.values.get(f.name) for r in rows], f) for f in schema]
    except (UnicodeEncodeError, pa.ArrowException):
        faults = [unfit(r.values) for r in rows]
        bad = bad + [Quarantined(r.file, r.line, fault, "") for r, fault in zip(rows, faults, strict=True) if fault]
        rows = [r for r, fault in zip(rows, faults, strict=True) if not fault]
        arrays = [column([r.values.get(f.name) for r in rows], f) for f in schema]
    return Read(_with_origin(arrays, schema, name, [r.line for r in rows]), sorted(bad, key=lambda q: q.line))


def _with_origin(arrays: list[Any], schema: pa.Schema, name: str, numbers: Any) -> pa.RecordBatch:
    import pyarrow as pa

    lines_of = pa.array(numbers, pa.int64())
    file = pa.DictionaryArray.from_arrays(pa.array([0] * len(lines_of), pa.int32()), pa.array([name]))
    return pa.RecordBatch.from_arrays([*arrays, file, lines_of], schema=with_origin(schema))


def with_origin(schema: pa.Schema) -> pa.Schema:
    """The schema with the columns that say where a row was read."""
    import pyarrow as pa

    from luthier.data.stages.stage import FILE, LINE

    return schema.append(pa.field(FILE, pa.dictionary(pa.int32(), pa.string()))).append(pa.field(LINE, pa.int64()))


def _tabular(path: Path, kind: str, name: str) -> Iterator[Read]:
    number = 0
    for batch in columnar.batches(path, kind, size=BATCH_ROWS):
        if batch.num_rows:
            yield Read(_with_origin(batch.columns, batch.schema, name, range(number + 1, number + batch.num_rows + 1)), [])
            number += batch.num_rows
