"""Exact duplicates: rows with the same texts as another."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from luthier.data.split import content_key
from luthier.data.stages.stage import FILE, LINE, ROW, Verdicts
from luthier.data.stages.texts import text_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.duplicates import DuplicatesOptions


class Duplicates:
    """Of rows with the same texts the first (or last) stays. Memory: about 100 bytes a text that differs."""

    def __init__(self, options: DuplicatesOptions, schema: pa.Schema) -> None:
        self.schema, self._options = schema, options
        self._columns = text_columns(schema, options.columns, stage="duplicates")
        self._kept: dict[bytes, tuple[int, str, int]] = {}

    def look(self, batch: pa.RecordBatch) -> None:
        places = zip(batch.column(ROW).to_pylist(), batch.column(FILE).to_pylist(), batch.column(LINE).to_pylist(), strict=True)
        for key, place in zip(self._keys(batch), places, strict=True):
            if self._options.keep == "last":
                self._kept[key] = place
            else:
                self._kept.setdefault(key, place)

    def settle(self) -> None:
        """Nothing is left to do."""

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        dropped = {}
        for place, (key, row) in enumerate(zip(self._keys(batch), batch.column(ROW).to_pylist(), strict=True)):
            kept, file, line = self._kept[key]
            if kept != row:
                dropped[place] = f"the same as: {file}:{line}"
        return Verdicts(batch, dropped=dropped)

    def _keys(self, batch: pa.RecordBatch) -> Iterator[bytes]:
        files = batch.column(FILE).to_pylist() if not self._options.across else [""] * batch.num_rows
        lists = [batch.column(name).to_pylist() for name in self._columns]
        for file, *texts in zip(files, *lists, strict=True):
            key = content_key(*texts) if self._options.fold else "\x1f".join("\x00" if t is None else t for t in texts)
            yield hashlib.blake2b(f"{file}\x1e{key}".encode(), digest_size=12).digest()
