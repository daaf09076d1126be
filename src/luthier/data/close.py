"""Texts that say nearly the same in other words: those whose vectors point nearly the same way.

Enters: vectors of length 1, or what gives them, and the least cosine. Leaves: pairs, as `data/near.py` has them. Each text is
compared with each, in blocks: the time grows with the square of their number (100,000 texts: some minutes).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from luthier.data.near import Pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 64 << 20
ROUNDING = 1e-5
"""Of a cosine in fp32."""


@dataclass(frozen=True)
class Closeness:
    """What gives texts their vectors, (texts, width), and the least cosine that makes two of them close. Blank texts are close to none."""

    vectors: Callable[[Sequence[str]], NDArray[np.float32]]
    threshold: float

    def pairs(self, texts: Sequence[str]) -> Pairs:
        """All pairs of texts that are close."""
        return close_pairs(self._of(texts), threshold=self.threshold)

    def crossing(self, texts: Sequence[str], others: Sequence[str]) -> dict[int, tuple[int, float]]:
        """Of the texts that are close to one of `others`: place -> the place of the closest, and the cosine."""
        mine, theirs = self._of(texts), self._of(others)
        found: dict[int, tuple[int, float]] = {}
        for start, block in _blocks(mine, theirs):
            best, cosine = block.argmax(axis=1), block.max(axis=1)
            for i in (cosine >= self.threshold - ROUNDING).nonzero()[0].tolist():
                found[start + i] = int(best[i]), float(min(cosine[i], 1.0))
        return found

    def _of(self, texts: Sequence[str]) -> NDArray[np.float32]:
        vectors = np.array(self.vectors(texts), np.float32)
        vectors[[i for i, text in enumerate(texts) if not text.strip()]] = 0
        return vectors


def close_pairs(vectors: NDArray[np.float32], *, threshold: float) -> Pairs:
    """All pairs of vectors (rows, width) of length 1 whose cosine is at least `threshold`; one that is 0 is in none."""
    first, second, similarity = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)], [np.zeros(0)]
    for start, block in _blocks(vectors, vectors):
        later, earlier = (block >= threshold - ROUNDING).nonzero()
        kept = earlier < later + start
        later, earlier = later[kept], earlier[kept]
        first.append(earlier)
        second.append(later + start)
        similarity.append(np.minimum(block[later, earlier].astype(np.float64), 1.0))
    return Pairs(np.concatenate(first), np.concatenate(second), np.concatenate(similarity))


def _blocks(rows: NDArray[np.float32], columns: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
    """(first row, cosines with all columns) of some rows at a time."""
    if len(rows) and len(columns):
        step = max(1, BLOCK_BYTES // (4 * len(columns)))
        for start in range(0, len(rows), step):
            yield start, rows[start : start + step] @ columns.T
