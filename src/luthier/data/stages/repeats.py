"""What the stages share that drop a row because it is like an earlier one that stays."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterable
from typing import TYPE_CHECKING

from luthier.data.stages.stage import FILE, LINE, ROW, Verdicts
from luthier.data.stages.texts import joined, text_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.near import Pairs
    from luthier.recipe.stages.duplicates import RepeatOptions


class Repeats(ABC):
    """Gathers where each row stands; what makes rows alike is the subclass's."""

    how: str
    """What a dropped row is to the one that stays."""

    def __init__(self, options: RepeatOptions, schema: pa.Schema) -> None:
        self.schema, self._across = schema, options.across
        self._columns = text_columns(schema, options.columns, stage=options.type)
        self._rows, self._lines, self._file = array("q"), array("q"), array("i")
        self._files: dict[str, int] = {}
        self._dropped: dict[int, str] = {}

    @abstractmethod
    def add(self, texts: Iterable[str]) -> None:
        """Take in the texts of a batch."""

    @abstractmethod
    def pairs(self) -> Pairs:
        """All pairs that are alike."""

    def look(self, batch: pa.RecordBatch) -> None:
        self.add(joined(batch, self._columns))
        self._rows.extend(batch.column(ROW).to_pylist())
        self._lines.extend(batch.column(LINE).to_pylist())
        self._file.extend([self._files.setdefault(f, len(self._files)) for f in batch.column(FILE).to_pylist()])

    def settle(self) -> None:
        pairs = self.pairs()
        names, gone = list(self._files), set[int]()
        for a, b, similarity in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True):
            if a in gone or b in gone or not (self._across or self._file[a] == self._file[b]):
                continue
            gone.add(b)
            self._dropped[self._rows[b]] = f"{self.how}: {names[self._file[a]]}:{self._lines[a]} ({similarity:.2f})"

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        rows = batch.column(ROW).to_pylist()
        return Verdicts(batch, dropped={place: self._dropped[row] for place, row in enumerate(rows) if row in self._dropped})
