"""Parquet and Arrow files: tables already, read a few rows at a time.

Their columns keep the types they have; dictionaries are written out. What Luthier wrote as JSON is still marked so.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.rows import refuse_twice
from luthier.data.sources.kinds import MOST_COLUMNS, too_many
from luthier.data.sources.opened import GZIP, ZSTD, archive_of, opened
from luthier.errors import DataError, SpaceError

if TYPE_CHECKING:
    import pyarrow as pa

MAGIC = {b"PAR1": "parquet", b"ARRO": "arrow"}


@contextmanager
def _on_disk(path: Path) -> Iterator[Path]:
    """The file itself; where it is packed, an unpacked copy for the while."""
    with path.open("rb") if archive_of(path) == path else opened(path) as stream:
        head = stream.read(4)
    if archive_of(path) == path and (head in MAGIC or (head[:2] != GZIP and head != ZSTD)):
        yield path
        return
    with tempfile.NamedTemporaryFile(suffix=".unpacked") as copy:
        try:
            with opened(path) as stream:
                shutil.copyfileobj(stream, copy, 1 << 20)
            copy.flush()
        except OSError as error:
            raise SpaceError(f"cannot be unpacked: {error.strerror or error}", where=copy.name, remedy="free some space") from None
        yield Path(copy.name)


def schema_of(path: Path, kind: str) -> pa.Schema:
    """The columns of a file. Raises DataError for one that cannot be read."""
    with _tables(path, kind) as (schema, _, _):
        return schema


def count_of(path: Path, kind: str) -> int | None:
    """The rows of a file, where it says so."""
    with _tables(path, kind) as (_, rows, _):
        return rows


def batches(path: Path, kind: str, *, size: int) -> Iterator[pa.RecordBatch]:
    """Rows, at most `size` at a time."""
    import pyarrow as pa

    with _tables(path, kind) as (schema, _, read):
        try:
            for batch in read(size):
                yield pa.RecordBatch.from_arrays(
                    [c if c.type == f.type else c.cast(f.type) for c, f in zip(batch.columns, schema, strict=True)], schema=schema
                )
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"cannot be read on: {str(error)[:160]}", where=str(path), remedy="fetch it again") from None


@contextmanager
def _tables(path: Path, kind: str) -> Iterator[tuple[pa.Schema, int | None, Any]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    with _on_disk(path) as place:
        try:
            if kind == "parquet":
                file = pq.ParquetFile(place)
                schema, rows = file.schema_arrow, file.metadata.num_rows

                def read(size: int) -> Any:
                    return file.iter_batches(batch_size=size)

                closing: Any = file
            else:
                closing = pa.memory_map(str(place))
                schema, rows, read = _ipc(closing)
        except (pa.ArrowException, OSError, ValueError) as error:
            shown = "Parquet" if kind == "parquet" else "Arrow"
            raise DataError(f"is not a readable {shown} file: {str(error)[:120]}", where=str(path)) from None
        if len(schema) > MOST_COLUMNS:
            raise too_many(len(schema), str(path))
        refuse_twice(schema.names, str(path))
        try:
            yield _plain(schema), rows, read
        finally:
            closing.close()


def _ipc(source: Any) -> tuple[pa.Schema, int | None, Any]:
    import pyarrow as pa

    try:
        file = pa.ipc.open_file(source)
    except pa.ArrowInvalid:
        source.seek(0)
        stream = pa.ipc.open_stream(source)
        return stream.schema, None, lambda size: _cut(iter(stream), size)
    found = (file.get_batch(i) for i in range(file.num_record_batches))
    return file.schema, None, lambda size: _cut(found, size)


def _cut(found: Iterator[pa.RecordBatch], size: int) -> Iterator[pa.RecordBatch]:
    for batch in found:
        for start in range(0, batch.num_rows, size):
            yield batch.slice(start, size)


def _plain(schema: pa.Schema) -> pa.Schema:
    """The schema without dictionaries, large strings and foreign metadata."""
    import pyarrow as pa

    fields = []
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        if pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
            kind = pa.string()
        mark = {k: v for k, v in (field.metadata or {}).items() if k == b"luthier"}
        fields.append(pa.field(field.name, kind, metadata=mark or None))
    return pa.schema(fields)
