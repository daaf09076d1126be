"""Near duplicates: rows that are nearly an earlier one."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from luthier.data.near import Texts
from luthier.data.stages.stage import FILE, LINE, ROW, Verdicts
from luthier.data.stages.texts import joined, text_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.duplicates import NearDuplicatesOptions


class NearDuplicates:
    """A row is dropped where it is like an earlier row that stays, compared exactly. What it needs: see `data/near.py`."""

    def __init__(self, options: NearDuplicatesOptions, schema: pa.Schema) -> None:
        self.schema, self._options = schema, options
        self._columns = text_columns(schema, options.columns, stage="near_duplicates")
        self._texts = Texts(shingle=options.shingle, min_words=options.min_words)
        self._rows, self._lines, self._file = array("q"), array("q"), array("i")
        self._files: dict[str, int] = {}
        self._dropped: dict[int, str] = {}

    def look(self, batch: pa.RecordBatch) -> None:
        self._texts.add(joined(batch, self._columns))
        self._rows.extend(batch.column(ROW).to_pylist())
        self._lines.extend(batch.column(LINE).to_pylist())
        self._file.extend([self._files.setdefault(f, len(self._files)) for f in batch.column(FILE).to_pylist()])

    def settle(self) -> None:
        pairs = self._texts.pairs(threshold=self._options.threshold)
        names, gone = list(self._files), set[int]()
        for a, b, similarity in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True):
            if a in gone or b in gone or not (self._options.across or self._file[a] == self._file[b]):
                continue
            gone.add(b)
            self._dropped[self._rows[b]] = f"nearly the same as: {names[self._file[a]]}:{self._lines[a]} ({similarity:.2f})"

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        rows = batch.column(ROW).to_pylist()
        return Verdicts(batch, dropped={place: self._dropped[row] for place, row in enumerate(rows) if row in self._dropped})
