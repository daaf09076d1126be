"""Near duplicates: rows that are nearly an earlier one."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from luthier.data.near import Pairs, Texts
from luthier.data.stages.repeats import Repeats

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.duplicates import NearDuplicatesOptions


class NearDuplicates(Repeats):
    """A row is dropped where it is like an earlier row that stays, compared exactly. What it needs: see `data/near.py`."""

    how = "nearly the same as"

    def __init__(self, options: NearDuplicatesOptions, schema: pa.Schema) -> None:
        super().__init__(options, schema)
        self._threshold, self._texts = options.threshold, Texts(shingle=options.shingle, min_words=options.min_words)

    def add(self, texts: Iterable[str]) -> None:
        self._texts.add(texts)

    def pairs(self) -> Pairs:
        return self._texts.pairs(threshold=self._threshold)
