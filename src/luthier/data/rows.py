"""Files to rows: CSV, TSV, JSONL, JSON, Parquet, plain text, labelled lines, CoNLL; plain or gzipped.

Enters: a path. Leaves: rows (dicts of the file's own columns) with the line each began on, and the
quarantined rows with file, line and reason. Nothing is skipped silently, nothing raises for one bad
row; a file that cannot be read at all raises DataError.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from luthier.data.sources.delimited import Dialect, delimiter_of, records, tsv_quoting
from luthier.data.sources.json_values import object_fault, parse
from luthier.data.sources.lines import MOST, Line
from luthier.data.sources.opened import opened
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
PACKED = (".gz", ".zst")


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
    refuse_twice(columns or (), "data.columns")
    kind = format_of(path) if format == "auto" else format
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


def format_of(path: Path) -> str:
    """The format that a file's name tells. Raises DataError where it tells none."""
    suffixes = [s.lower() for s in path.suffixes]
    kind = FORMATS.get(next((s for s in reversed(suffixes) if s not in PACKED), ""))
    if kind is None:
        raise DataError(
            f"cannot tell the format from the name {path.name!r}",
            where=str(path),
            remedy=f"name it {', '.join(FORMATS)} (optionally .gz or .zst), or set data.format",
        )
    return kind


def _bytes(path: Path) -> bytes:
    with opened(path) as stream:
        data = stream.read()
    if not data.strip():
        raise DataError("is empty", where=str(path), remedy="give a file with at least one row")
    return data


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


def labelled(line: str, column: str) -> dict[str, Any] | str | None:
    """The row of a line `LABEL text`, as TREC and fastText write them, the latter with several labels, kept with blanks between.

    Where labels have levels, A:b, the column `coarse` has the first. None for an empty line, the reason for one that is no row.
    """
    if not line.strip():
        return None
    label, _, rest = line.strip().partition(" ")
    while rest.startswith(LABEL):
        more, _, rest = rest.partition(" ")
        label += f" {more}"
    label = label.replace(LABEL, "")
    if not label or not rest.strip():
        return "has no text after its label"
    return {column: rest.strip(), "label": label, "coarse": label.partition(":")[0]}


def _labelled(text: str, path: Path, result: Rows, column: str) -> None:
    for number, line in enumerate(text.split("\n"), start=1):
        row = labelled(line, column)
        if isinstance(row, str):
            result.quarantined.append(Quarantined(str(path), number, row, line[:200]))
        elif row is not None:
            result.rows.append(Row(row, str(path), number))


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


def _numbered(text: str, *, newline: str) -> Iterator[Line]:
    for number, line in enumerate(io.StringIO(text, newline=newline), 1):
        if len(line) > MOST:
            yield Line(number, line[:200], f"a line of {len(line):,} characters, longer than {MOST >> 20} Mi")
        else:
            yield Line(number, line)


def _delimited(text: str, path: Path, result: Rows, kind: str, names: list[str] | None) -> None:
    dialect = Dialect(delimiter_of(text[: text.find("\n")] if "\n" in text else text))
    if kind == "tsv":
        dialect = Dialect("\t", tsv_quoting(lambda: _numbered(text, newline="")))
    if dialect.delimiter not in ",\t":
        result.notes.append(f"{path.name}: fields separated by {dialect.delimiter!r}")
    header = names
    for found in records(_numbered(text, newline=""), dialect):
        if header is None:
            header = header_of(found.cells, f"{path}:{found.line}")
            continue
        fault = found.fault or width_fault(found.cells, header)
        if fault:
            excerpt = found.excerpt or dialect.delimiter.join(found.cells or [])[:200]
            result.quarantined.append(Quarantined(str(path), found.line, fault, excerpt))
        else:
            result.rows.append(Row(dict(zip(header, found.cells or [], strict=True)), str(path), found.line))


def header_of(cells: list[str] | None, where: str) -> list[str]:
    """The names of the columns. Raises DataError for a line that names none, or one twice."""
    header = [c.strip() for c in cells or []]
    if not any(header):
        raise DataError("has no header line", where=where, remedy="name the columns in data.columns")
    refuse_twice(header, where)
    return header


def refuse_twice(names: Sequence[str], where: str) -> None:
    """Raise DataError for names of which one stands there twice: of the two columns one would be lost."""
    if len(set(names)) < len(names):
        twice = next(n for n, count in Counter(names).items() if count > 1)
        raise DataError(f"names the column {twice!r} twice", where=where, remedy="rename one of them")


def width_fault(cells: list[str] | None, header: list[str]) -> str:
    """Why cells do not fit under a header; "" where they do."""
    count = len(cells or [])
    return "" if count == len(header) else f"{count} fields where the header has {len(header)}"


def _jsonl(text: str, path: Path, result: Rows, kind: str, names: list[str] | None) -> None:
    for line in _numbered(text, newline="\n"):
        if line.fault:
            result.quarantined.append(Quarantined(str(path), line.number, line.fault, line.text))
        elif line.text.strip():
            _add_object(parse(line.text), line.text, line.number, path, result)


def _add_object(value: Any, text: str, line: int, path: Path, result: Rows) -> None:
    fault = object_fault(value)
    if fault:
        result.quarantined.append(Quarantined(str(path), line, fault, text[:200].rstrip("\n")))
    else:
        result.rows.append(Row(value, str(path), line))


def _json(text: str, path: Path, result: Rows, kind: str, names: list[str] | None) -> None:
    read_json(text, path, result)


def read_json(text: str, path: Path, result: Rows) -> None:
    """Rows of a JSON text: a list of objects or of texts (column `text`), an object with one such list, SQuAD, or one object a line."""
    value = parse(text)
    if isinstance(value, Exception):
        if text.lstrip().startswith("{") and isinstance(parse(text.lstrip().split("\n")[0]), dict):
            result.notes.append(f"{path.name}: one object a line; read as JSONL")
            _jsonl(text, path, result, "jsonl", None)
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
    if value and all(isinstance(item, str) for item in value):
        value = [{"text": item} for item in value]
    for number, item in enumerate(value, 1):
        _add_object(item, json.dumps(item)[:200], number, path, result)


def _parquet(data: bytes, path: Path, result: Rows) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.read_table(pa.BufferReader(data))
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"is not a readable Parquet file: {str(error)[:120]}", where=str(path)) from None
    kept = [f.name for f in table.schema if (f.metadata or {}).get(b"luthier") == b"json"]  # as data/sources/kinds.py marks them
    for number, values in enumerate(table.to_pylist(), 1):
        plain = {name: json.loads(values[name]) for name in kept if values[name] is not None}
        result.rows.append(Row({**values, **plain}, str(path), number))


_READERS = {"csv": _delimited, "tsv": _delimited, "jsonl": _jsonl, "json": _json}
