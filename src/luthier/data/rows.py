"""Files to rows: CSV, TSV, JSONL, JSON, Parquet, plain text, labelled lines, CoNLL; plain or gzipped.

Enters: a path. Leaves: rows (dicts of the file's own columns) with the line each began on, and the
quarantined rows with file, line and reason. Nothing is skipped silently, nothing raises for one bad
row; a file that cannot be read at all raises DataError.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from luthier.data.squad import flatten, is_squad
from luthier.errors import DataError

FORMATS = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".json": "json",
    ".parquet": "parquet",
    ".txt": "text",
    ".md": "text",
    ".conllu": "conllu",
    ".conll": "conll",
    ".iob": "conll",
    ".iob2": "conll",
    ".bio": "conll",
}
MAX_CELL = 16 << 20


class Row(NamedTuple):
    """One row and where it was read."""

    values: dict[str, Any]
    file: str
    line: int


class Quarantined(NamedTuple):
    """A row that could not be used, and why."""

    file: str
    line: int
    reason: str
    text: str


@dataclass
class Rows:
    """What was read: usable rows, quarantined ones, and how the files were understood."""

    rows: list[Row] = field(default_factory=list)
    quarantined: list[Quarantined] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def columns(self) -> list[str]:
        """All columns, in order of first appearance."""
        found: dict[str, None] = {}
        for row in self.rows:
            found.update(dict.fromkeys(row.values))
        return list(found)


def read(
    path: Path,
    *,
    format: str = "auto",
    encoding: str = "auto",
    columns: list[str] | None = None,
    separator: str | None = None,
    text: str = "text",
) -> Rows:
    """Read one file. Raises DataError for one that is missing, empty, binary or of an unknown format.

    A text file gives rows with one column, named `text`: its documents, between separators.
    """
    kind = _format(path) if format == "auto" else format
    data = _bytes(path)
    result = Rows()
    if kind == "parquet":
        _parquet(data, path, result)
    else:
        content, note = decode(data, path, encoding=encoding)
        if not content.strip():
            raise DataError("is empty", where=str(path), remedy="give a file with at least one row")
        result.notes += [f"{path.name}: {note}"] if note else []
        if kind == "text":
            _documents(content, path, result, separator, text)
        elif kind == "labelled":
            _labelled(content, path, result, text)
        elif kind in ("conll", "conllu"):
            _sentences(content, path, result, kind, columns)
        else:
            _READERS[kind](content, path, result, kind, columns)
    if not result.rows and not result.quarantined:
        raise DataError("holds no rows", where=str(path), remedy="give a file with a header line and at least one row")
    return result


def _format(path: Path) -> str:
    suffixes = [s.lower() for s in path.suffixes]
    kind = FORMATS.get(next((s for s in reversed(suffixes) if s != ".gz"), ""))
    if kind is None:
        raise DataError(
            f"cannot tell the format from the name {path.name!r}",
            where=str(path),
            remedy=f"name it {', '.join(FORMATS)} (optionally .gz), or set data.format",
        )
    return kind


def archive_of(path: Path) -> Path:
    """The file on the disk that holds `path`: itself, or the zip archive that it leads into."""
    return next((p for p in path.parents if p.suffix.lower() == ".zip" and p.is_file()), path)


def _bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes() if archive_of(path) == path else _member(path, archive_of(path))
    except FileNotFoundError:
        raise DataError("no such file", where=str(path), remedy="check data.train, data.validation and data.test") from None
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise DataError(f"is a damaged gzip file: {error}", where=str(path), remedy="fetch it again") from None
    if not data.strip():
        raise DataError("is empty", where=str(path), remedy="give a file with at least one row")
    return data


def _member(path: Path, archive: Path) -> bytes:
    """A file inside a zip archive."""
    import zipfile

    inside = path.relative_to(archive).as_posix()
    try:
        with zipfile.ZipFile(archive) as opened:
            return opened.read(inside)
    except KeyError:
        with zipfile.ZipFile(archive) as opened:
            names = ", ".join(opened.namelist()[:8])
        raise DataError(f"has no {inside}", where=str(archive), remedy=f"it holds {names}") from None
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise DataError(f"is a damaged zip archive: {error}", where=str(archive), remedy="fetch it again") from None


def decode(data: bytes, path: Path, *, encoding: str = "auto") -> tuple[str, str]:
    """Bytes to text, and a note when the encoding was not plain UTF-8. Raises DataError for binary data."""
    if encoding != "auto":
        try:
            return data.decode(encoding).lstrip("\ufeff"), f"read as {encoding}"
        except LookupError:
            raise DataError(f"unknown encoding {encoding!r}", where="data.encoding", remedy="for example utf-8 or cp1252") from None
        except UnicodeDecodeError as error:
            raise DataError(
                f"is not {encoding}: {error.reason} at byte {error.start}", where=str(path), remedy="set data.encoding: auto"
            ) from None
    for mark, name in ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16")):
        if data.startswith(mark):
            return _decode_as(data, name, f"read as {name}")
    if b"\0" in data[:65536] and data[:4] != b"PAR1":
        raise DataError("is a binary file", where=str(path), remedy="give a text file: CSV, TSV, JSONL or JSON, or Parquet")
    try:
        return data.decode("utf-8"), ""
    except UnicodeDecodeError as error:
        from charset_normalizer import from_bytes

        start = max(0, error.start - 65536)
        best = from_bytes(data[start : start + (1 << 20)]).best()
        controls = sum(b < 9 or 13 < b < 32 for b in data[:65536])
        if best is None or controls > len(data[:65536]) // 20:
            raise DataError(
                "is neither UTF-8 nor any text encoding we can tell",
                where=str(path),
                remedy="set data.encoding, or give a text file",
            ) from None
        return _decode_as(data, best.encoding, f"not UTF-8; read as {best.encoding}")


def _decode_as(data: bytes, encoding: str, note: str) -> tuple[str, str]:
    """Strictly where possible; else unreadable characters are replaced and counted in the note."""
    try:
        return data.decode(encoding), note
    except UnicodeDecodeError:
        text = data.decode(encoding, errors="replace")
        return text, f"{note}, {text.count(chr(0xFFFD))} characters unreadable"


def cell_text(value: Any) -> str:
    """A cell as the text that recipes compare with: 2.0 is "2", nothing is ""."""
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    return str(value).strip()


LABEL = "__label__"
"""What stands before a label in fastText's files."""


def _labelled(text: str, path: Path, result: Rows, column: str) -> None:
    """Lines `LABEL text`, as TREC and fastText write them, the latter with several labels, kept with blanks between.

    Where labels have levels, A:b, the column `coarse` has the first.
    """
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        label, _, rest = line.strip().partition(" ")
        while rest.startswith(LABEL):
            more, _, rest = rest.partition(" ")
            label += f" {more}"
        label = label.replace(LABEL, "")
        if not label or not rest.strip():
            result.quarantined.append(Quarantined(str(path), number, "has no text after its label", line[:200]))
            continue
        result.rows.append(Row({column: rest.strip(), "label": label, "coarse": label.partition(":")[0]}, str(path), number))


def _documents(text: str, path: Path, result: Rows, separator: str | None, column: str) -> None:
    line = 1
    for part in text.split(separator) if separator else [text]:
        if part.strip():
            result.rows.append(Row({column: part.strip("\r\n")}, str(path), line + part[: len(part) - len(part.lstrip())].count("\n")))
        line += part.count("\n") + (separator or "").count("\n")


def _sentences(text: str, path: Path, result: Rows, kind: str, names: list[str] | None) -> None:
    from luthier.data.conll import read_columns, read_conllu

    if kind == "conllu":
        read_conllu(text, path, result)
    else:
        read_columns(text, path, result, names)


def _delimited(text: str, path: Path, result: Rows, kind: str, names: list[str] | None) -> None:
    csv.field_size_limit(MAX_CELL)
    lines = io.StringIO(text, newline="").readlines()
    delimiter = "\t" if kind == "tsv" else _delimiter(lines[0])
    if delimiter not in ",\t":
        result.notes.append(f"{path.name}: fields separated by {delimiter!r}")
    records = _records(lines, delimiter, quoting=csv.QUOTE_MINIMAL if kind == "csv" else _tsv_quoting(lines))
    header = names
    for line, cells, fault in records:
        if header is None:
            header = [c.strip() for c in cells or []]
            if fault or not any(header):
                raise DataError("has no header line", where=f"{path}:{line}", remedy="name the columns in data.columns")
            twice = next((c for c in header if header.count(c) > 1), None)
            if twice is not None:
                raise DataError(f"names the column {twice!r} twice", where=f"{path}:{line}", remedy="rename one of them")
            continue
        if cells is None or fault:
            result.quarantined.append(Quarantined(str(path), line, fault, lines[line - 1][:200].rstrip("\r\n")))
        elif len(cells) != len(header):
            reason = f"{len(cells)} fields where the header has {len(header)}"
            result.quarantined.append(Quarantined(str(path), line, reason, delimiter.join(cells)[:200]))
        else:
            result.rows.append(Row(dict(zip(header, cells, strict=True)), str(path), line))


def _delimiter(first: str) -> str:
    """The separator of a header line: the commonest of the usual ones."""
    counts = {d: first.count(d) for d in (",", ";", "\t", "|")}
    best = max(counts, key=lambda d: counts[d])
    return best if counts[best] else ","


def _tsv_quoting(lines: list[str]) -> Any:
    """Many TSV files hold bare quotes, some quoted fields: the reading under which every record is whole is taken."""
    full = [line for line in lines if line.strip()]
    fields = full[0].count("\t") + 1
    try:
        records = [r for r in csv.reader(lines, delimiter="\t", strict=True) if r]
    except csv.Error:
        return csv.QUOTE_NONE
    clean = all(len(r) == fields for r in records)
    lines_are_records = all(line.count("\t") + 1 == fields for line in full)
    if clean and (len(records) == len(full) or not lines_are_records):
        return csv.QUOTE_MINIMAL
    return csv.QUOTE_NONE


def _records(lines: list[str], delimiter: str, *, quoting: Any) -> Iterator[tuple[int, list[str] | None, str]]:
    """(line, cells, fault) for each record; after a quote that never closes, reading goes on at the next line."""
    start = 0
    while start < len(lines):
        reader = csv.reader(lines[start:], delimiter=delimiter, quoting=quoting, strict=quoting != csv.QUOTE_NONE)
        base, begun = start, start
        try:
            for cells in reader:
                if cells:
                    yield begun + 1, cells, ""
                begun = base + reader.line_num
            return
        except csv.Error as error:
            reason = "a quote is opened and never closed" if "end of data" in str(error) else str(error)
            yield begun + 1, None, reason
            start = begun + 1


def _jsonl(text: str, path: Path, result: Rows, kind: str, names: list[str] | None) -> None:
    for number, line in enumerate(text.split("\n"), 1):
        if len(line) > MAX_CELL:
            reason = f"a line of {len(line) >> 20} Mi characters, longer than {MAX_CELL >> 20}"
            result.quarantined.append(Quarantined(str(path), number, reason, line[:200]))
        elif line.strip():
            _add_object(_parse(line), line, number, path, result)


def _parse(text: str) -> Any:
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _add_object(value: Any, text: str, line: int, path: Path, result: Rows) -> None:
    if isinstance(value, dict):
        result.rows.append(Row(value, str(path), line))
        return
    reason = f"not JSON: {value}" if isinstance(value, Exception) else f"a {type(value).__name__} where an object was expected"
    result.quarantined.append(Quarantined(str(path), line, reason[:200], text[:200]))


def _json(text: str, path: Path, result: Rows, kind: str, names: list[str] | None) -> None:
    value = _parse(text)
    if isinstance(value, Exception):
        if text.lstrip().startswith("{") and isinstance(_parse(text.lstrip().split("\n")[0]), dict):
            result.notes.append(f"{path.name}: one object a line; read as JSONL")
            _jsonl(text, path, result, kind, names)
            return
        raise DataError(f"is not JSON: {value}", where=str(path), remedy="mend the file, or use JSONL")
    if is_squad(value):
        for number, row, reason, excerpt in flatten(value):
            if row is None:
                result.quarantined.append(Quarantined(str(path), number, reason, excerpt))
            else:
                result.rows.append(Row(row, str(path), number))
        return
    if isinstance(value, dict):
        lists = [v for v in value.values() if isinstance(v, list)]
        value = lists[0] if len(lists) == 1 else [value]
    if not isinstance(value, list):
        raise DataError("holds no list of rows", where=str(path), remedy="give a JSON list of objects")
    for number, item in enumerate(value, 1):
        _add_object(item, json.dumps(item)[:200], number, path, result)


def _parquet(data: bytes, path: Path, result: Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"is not a readable Parquet file: {str(error)[:120]}", where=str(path)) from None
    result.rows.extend(Row(values, str(path), number) for number, values in enumerate(table.to_pylist(), 1))


_READERS = {"csv": _delimited, "tsv": _delimited, "jsonl": _jsonl, "json": _json}
