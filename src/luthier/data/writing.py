"""Batches to a file: Parquet, Arrow, JSON lines or CSV, a batch at a time."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Literal

from luthier.data.sources.kinds import is_json, values
from luthier.data.sources.spool import plain
from luthier.data.stages.stage import ORIGIN
from luthier.security.artifacts import finite

if TYPE_CHECKING:
    import pyarrow as pa

Format = Literal["parquet", "arrow", "jsonl", "csv"]


class Writer:
    """Writes the rows of one file, without the columns that say where each came from. Use it as a context."""

    def __init__(self, path: Path, schema: pa.Schema, format: Format) -> None:
        import pyarrow as pa
        import pyarrow.parquet as pq

        self.path, self.rows = path, 0
        self._schema = pa.schema([f for f in schema if f.name not in ORIGIN])
        self._text: IO[str] | None = None
        self._table: Any = None
        if format == "parquet":
            self._table = pq.ParquetWriter(path, self._schema, compression="zstd")
        elif format == "arrow":
            self._table = pa.ipc.new_file(str(path), self._schema)
        else:
            self._text = path.open("w", encoding="utf-8", newline="")
            if format == "csv":
                self._csv = csv.writer(self._text, lineterminator="\n")
                self._csv.writerow(self._schema.names)
        self._format = format

    def __enter__(self) -> Writer:
        return self

    def __exit__(self, *_: object) -> None:
        (self._table if self._table is not None else self._text).close()  # type: ignore[union-attr]

    def write(self, batch: pa.RecordBatch) -> None:
        """Append the rows of a batch."""
        self.rows += batch.num_rows
        if self._table is not None:
            self._table.write_batch(batch.select(self._schema.names))
        elif self._format == "csv":
            lists = [_cells(batch.column(f.name), f) for f in self._schema]
            self._csv.writerows(zip(*lists, strict=True))
        else:
            assert self._text is not None
            self._text.writelines(json.dumps(finite(row), ensure_ascii=False, default=plain) + "\n" for row in values(batch))


def _cells(column: pa.Array, field: pa.Field) -> list[Any]:
    import pyarrow as pa

    cells = column.to_pylist()
    if is_json(field) or pa.types.is_string(field.type):
        return cells
    if pa.types.is_boolean(field.type):
        return [None if c is None else str(c).lower() for c in cells]
    return [json.dumps(c, ensure_ascii=False, default=plain) if isinstance(c, (list, dict)) else _plain(c) for c in cells]


def _plain(cell: Any) -> Any:
    return cell if cell is None or isinstance(cell, (int, float, str)) else plain(cell)
