"""Values of rows to Arrow columns, and back, with nothing bent to fit.

A column whose values are all texts, whole numbers, numbers, truth values, or lists of texts or whole numbers has that Arrow
type. Any other (values nested, of several types, beyond 64 bits) is a column of JSON, marked so in the schema, and is given
back as what it was.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.stages.stage import JSON, ORIGIN
from luthier.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

MOST_COLUMNS = 10_000
INT64 = 1 << 63


class Kinds:
    """Gathers which kinds of values each column holds, row by row."""

    def __init__(self) -> None:
        self._found: dict[str, set[str]] = {}
        self.odd = False
        """Whether some row has a name or number that no file can hold; see `unfit`."""

    def add(self, values: Mapping[str, Any], where: str) -> None:
        """Look at a row. Raises DataError where the rows have more columns than any table should."""
        for name, value in values.items():
            known = self._found.get(name)
            if known is None:
                if len(self._found) >= MOST_COLUMNS:
                    raise too_many(len(self._found) + 1, where)
                if not encodable(name):
                    self.odd = True
                    continue
                known = self._found[name] = set()
            kind = _KINDS.get(type(value))
            if kind is None:
                kind = _kind(value)
                self.odd = self.odd or (kind in ("number", "json") and not _finite(value))
            known.add(kind)

    def schema(self) -> pa.Schema:
        """The columns, in order of first appearance."""
        import pyarrow as pa

        return pa.schema([_field(name, kinds - {"null"}) for name, kinds in self._found.items()])


def too_many(count: int, where: str) -> DataError:
    """The error for a table that is wider than any should be."""
    return DataError(
        f"has {count:,} columns or more; at most {MOST_COLUMNS:,} are read",
        where=where,
        remedy="check what separates its fields, or write one row a line",
    )


_KINDS = {str: "text", bool: "truth", type(None): "null"}


def _kind(value: Any) -> str:
    if isinstance(value, int):
        return "whole" if -INT64 <= value < INT64 else "json"
    if isinstance(value, float):
        return "number"
    if isinstance(value, list):
        if all(v is None or isinstance(v, str) for v in value):
            return "texts"
        if all(v is None or (isinstance(v, int) and not isinstance(v, bool) and -INT64 <= v < INT64) for v in value):
            return "wholes"
    return "json"


def _field(name: str, kinds: set[str]) -> pa.Field:
    import pyarrow as pa

    types = {
        "text": pa.string(),
        "whole": pa.int64(),
        "number": pa.float64(),
        "truth": pa.bool_(),
        "texts": pa.list_(pa.string()),
        "wholes": pa.list_(pa.int64()),
    }
    if not kinds:
        return pa.field(name, pa.string())
    if len(kinds) == 1 and (kind := next(iter(kinds))) in types:
        return pa.field(name, types[kind])
    return pa.field(name, pa.string(), metadata=JSON)


def is_json(field: pa.Field) -> bool:
    """Whether a column's texts are JSON."""
    return bool((field.metadata or {}).items() >= JSON.items())


def column(values: Sequence[Any], field: pa.Field) -> pa.Array:
    """Values as a column. Raises UnicodeEncodeError or ArrowException for one that does not fit."""
    import pyarrow as pa

    if is_json(field):
        return pa.array([None if v is None else json.dumps(v, ensure_ascii=False, default=str) for v in values], pa.string())
    return pa.array(values, field.type)


def values(batch: pa.RecordBatch) -> Iterator[dict[str, Any]]:
    """The rows of a batch as they were read: JSON columns as their values, without where each came from."""
    names = [n for n in batch.schema.names if n not in ORIGIN]
    lists = [_plain(batch.column(n).to_pylist(), batch.schema.field(n)) for n in names]
    for cells in zip(*lists, strict=True):
        yield dict(zip(names, cells, strict=True))


def _plain(cells: list[Any], field: pa.Field) -> list[Any]:
    return [None if c is None else json.loads(c) for c in cells] if is_json(field) else cells


def unfit(row: Mapping[str, Any]) -> str:
    """Why a row's values cannot be kept; "" where they can."""
    for name, value in row.items():
        try:
            json.dumps({name: value}, ensure_ascii=False, allow_nan=False, default=str).encode("utf-8")
        except UnicodeEncodeError:
            return f"half a character (a lone surrogate): in column {name!a}"[:200]
        except ValueError:
            return f"a number out of range: in column {name!r}"[:200]
    return ""


def encodable(text: str) -> bool:
    """Whether a text is one that UTF-8 can write: it holds no lone surrogate."""
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _finite(value: Any) -> bool:
    """Whether all numbers of a value are numbers that JSON has."""
    if isinstance(value, float):
        return math.isfinite(value)
    if isinstance(value, dict):
        return all(map(_finite, value.values()))
    return all(map(_finite, value)) if isinstance(value, list) else True


def unified(schemas: Iterable[pa.Schema]) -> pa.Schema:
    """One schema for rows of several files: a column whose types differ is a column of JSON."""
    import pyarrow as pa

    found: dict[str, pa.Field] = {}
    for schema in schemas:
        for field in schema:
            known = found.get(field.name)
            found[field.name] = field if known is None else _wider(known, field)
    return pa.schema(list(found.values()))


def _wider(one: pa.Field, other: pa.Field) -> pa.Field:
    import pyarrow as pa

    if is_json(one) or is_json(other):
        return pa.field(one.name, pa.string(), metadata=JSON)
    if one.type == other.type or pa.types.is_null(other.type):
        return one
    if pa.types.is_null(one.type):
        return other
    if {one.type, other.type} == {pa.string(), pa.large_string()}:
        return pa.field(one.name, pa.string())
    if pa.types.is_integer(one.type) and pa.types.is_integer(other.type) and pa.uint64() not in (one.type, other.type):
        return pa.field(one.name, pa.int64())
    return pa.field(one.name, pa.string(), metadata=JSON)


def conformed(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with the columns of a wider schema: those it lacks are missing, those of another type are made JSON."""
    import pyarrow as pa

    if batch.schema.equals(schema, check_metadata=True):
        return batch
    arrays = []
    for field in schema:
        place = batch.schema.get_field_index(field.name)
        if place < 0:
            arrays.append(pa.nulls(batch.num_rows, field.type))
        elif is_json(field) and not is_json(batch.schema.field(place)):
            arrays.append(column(batch.column(place).to_pylist(), field))
        else:
            array = batch.column(place)
            arrays.append(array if array.type == field.type else array.cast(field.type))
    return pa.RecordBatch.from_arrays(arrays, schema=schema)
