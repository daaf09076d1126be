"""The rows that are nearest to each row, by the cosine of their vectors.

Enters: vectors of length 1. Leaves: for each row its nearest others and how near they are; computed in blocks, so that no table of
all pairs is held.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NEAREST = 10
"""Neighbours of each row that are looked at."""
BLOCK_BYTES = 64 << 20
MOST = 50_000
"""Rows among which neighbours are looked for; of more, so many are drawn."""


@dataclass(frozen=True)
class Neighbours:
    """Places of the nearest others, nearest first, (rows, k), and their cosines, (rows, k)."""

    rows: NDArray[np.int64]
    cosines: NDArray[np.float32]


def neighbours(vectors: NDArray[np.float32], *, k: int, among: NDArray[np.float32] | None = None, seed: int = 0) -> Neighbours:
    """The `k` nearest of each row (fewer where there are not so many): others of its own, or those of `among`."""
    import numpy as np

    pool = vectors if among is None else among
    places = np.arange(len(pool))
    if len(pool) > MOST:
        places = np.sort(np.random.default_rng(seed).choice(len(pool), MOST, replace=False))
    searched = np.ascontiguousarray(pool[places].T)
    k = max(0, min(k, len(places) - (among is None)))
    rows, cosines = np.zeros((len(vectors), k), np.int64), np.zeros((len(vectors), k), np.float32)
    step = max(1, BLOCK_BYTES // (4 * max(1, len(places))))
    for start in range(0, len(vectors) if k else 0, step):
        block = vectors[start : start + step] @ searched
        if among is None:
            block[places[None, :] == np.arange(start, start + len(block))[:, None]] = -np.inf
        best = np.argpartition(-block, k - 1, axis=1)[:, :k]
        near = np.take_along_axis(block, best, axis=1)
        order = np.lexsort((best, -near), axis=1)
        rows[start : start + step] = places[np.take_along_axis(best, order, axis=1)]
        cosines[start : start + step] = np.take_along_axis(near, order, axis=1)
    return Neighbours(rows, cosines)
