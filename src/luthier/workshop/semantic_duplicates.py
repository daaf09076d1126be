"""Semantic duplicates: rows that say nearly the same as an earlier one, in other words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from luthier.data.close import close_pairs
from luthier.data.near import Pairs
from luthier.data.stages.repeats import Repeats
from luthier.workshop.embed import Gathered

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.semantic import SemanticDuplicatesOptions


class SemanticDuplicates(Repeats):
    """A row is dropped where its vector is close to that of an earlier row that stays; one without text never is."""

    how = "means nearly the same as"

    def __init__(self, options: SemanticDuplicatesOptions, schema: pa.Schema) -> None:
        super().__init__(options, schema)
        self._threshold, self._vectors = options.threshold, Gathered(options.model)

    def add(self, texts: Iterable[str]) -> None:
        self._vectors.add(list(texts))

    def pairs(self) -> Pairs:
        return close_pairs(self._vectors.settled(), threshold=self._threshold)
