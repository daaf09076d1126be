"""A sample of a stream that fits in memory: every row has the same chance, and the same stream gives the same rows.

Enters: batches, one after the other. Leaves: one table of at most so many rows and bytes, in the stream's order. Each row
draws a number from the seed and its place; those with the smallest stay (Vitter, 1985, in the form that needs no counting).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pyarrow as pa
    from numpy.typing import NDArray

ROWS, SIZE = 20_000, 64 << 20


class Sample:
    """Gathers rows; `rows` and `size` (bytes) are the most that is kept in the end, about twice as much on the way."""

    def __init__(self, schema: pa.Schema, *, rows: int = ROWS, size: int = SIZE, seed: int = 0) -> None:
        self._schema, self._rows, self._size = schema, rows, size
        self._draw = np.random.default_rng(seed)
        self._batches: list[pa.RecordBatch] = []
        self._keys: list[NDArray[np.float64]] = []
        self._highest = 1.0

    def add(self, batch: pa.RecordBatch) -> None:
        """Take in some more rows."""
        import pyarrow as pa

        keys = self._draw.random(batch.num_rows)
        kept = keys < self._highest
        if not kept.all():
            batch, keys = batch.filter(pa.array(kept)), keys[kept]
        self._batches.append(batch)
        self._keys.append(keys)
        if sum(map(len, self._keys)) > 2 * self._rows or sum(b.nbytes for b in self._batches) > 2 * self._size:
            self._pare()

    def table(self) -> pa.Table:
        """What was drawn."""
        import pyarrow as pa

        self._pare()
        return pa.Table.from_batches(self._batches, self._schema)

    def _pare(self) -> None:
        """Leave only rows with smaller keys, until they fit; one row stays whatever its size."""
        import pyarrow as pa

        while (count := sum(map(len, self._keys))) > 1:
            size = sum(b.nbytes for b in self._batches)
            if count <= self._rows and size <= self._size:
                return
            keys = np.concatenate(self._keys)
            wanted = self._rows if size <= self._size else max(1, min(self._rows, count // 2))
            self._highest = float(np.partition(keys, wanted)[wanted])
            kept = [k < self._highest for k in self._keys]
            self._batches = [b.filter(pa.array(mask)) for b, mask in zip(self._batches, kept, strict=True) if mask.any()]
            self._keys = [k[mask] for k, mask in zip(self._keys, kept, strict=True) if mask.any()]
