"""Irrelevant rows: those that are like no other, ranked by how far they are from the rest."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

from luthier.data.stages.stage import ROW, Verdicts
from luthier.data.stages.texts import joined, text_columns
from luthier.workshop.embed import Gathered
from luthier.workshop.quality.neighbours import neighbours
from luthier.workshop.quality.outliers import distance_scores

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.semantic import IrrelevantOptions


class Irrelevant:
    """A row is dropped where the mean distance to its nearest others is far above the usual; one without text is left alone."""

    def __init__(self, options: IrrelevantOptions, schema: pa.Schema) -> None:
        self.schema, self._options = schema, options
        self._columns = text_columns(schema, options.columns, stage=options.type)
        self._vectors, self._rows = Gathered(options.model), array("q")
        self._dropped: dict[int, str] = {}

    def look(self, batch: pa.RecordBatch) -> None:
        self._vectors.add(list(joined(batch, self._columns)))
        self._rows.extend(batch.column(ROW).to_pylist())

    def settle(self) -> None:
        import numpy as np

        vectors = self._vectors.settled()
        there = np.flatnonzero(vectors.any(axis=1))
        near = neighbours(vectors[there], k=self._options.neighbours)
        scores = distance_scores(near)
        first = [i for i in (-scores).argsort(kind="stable").tolist() if scores[i] > self._options.above]
        for rank, i in enumerate(first, 1):
            far, nearest = f"{scores[i]:.1f} deviations from the usual", f"nearest cosine {near.cosines[i, 0]:.2f}"
            self._dropped[self._rows[int(there[i])]] = f"like no other row: {rank} of {len(first)}, {far}, {nearest}"

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        rows = batch.column(ROW).to_pylist()
        return Verdicts(batch, dropped={place: self._dropped[row] for place, row in enumerate(rows) if row in self._dropped})
