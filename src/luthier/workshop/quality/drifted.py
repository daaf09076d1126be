"""How the file differs from another one: in labels, lengths, words and as a whole, and which of its rows are most unlike the other's.

Enters: the texts and labels of both, and their vectors. Leaves: a finding for each difference that `data/drift.py` tells of, and the rows
that are farther from every row of the other file than that file's rows usually are from each other, farthest first. The score of a
row is that distance, in robust standard deviations; the sentences come first, and carry no rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.data.drift import Side, drift, sentences
from luthier.workshop.quality.finding import Finding, ranked, shown
from luthier.workshop.quality.neighbours import neighbours
from luthier.workshop.quality.outliers import BOUND, CONSISTENT, LEAST_SPREAD

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FIRST = 1000.0
"""The score of the first sentence: above that of any row."""


@dataclass(frozen=True)
class Other:
    """The rows of the other file; no labels where it has none."""

    texts: Sequence[str]
    labels: Sequence[str] | None


def drifted(
    texts: Sequence[str],
    labels: Sequence[str] | None,
    other: Other,
    *,
    vectors: NDArray[np.float32],
    theirs: NDArray[np.float32],
    seed: int = 0,
) -> list[Finding]:
    """How the texts differ from `other`, the older file."""
    import numpy as np

    figures = drift(_side(other.texts, other.labels), _side(texts, labels), seed=seed)
    told = [Finding("drift", (), FIRST - place, sentence) for place, sentence in enumerate(sentences(figures))]
    usual = 1 - neighbours(theirs, k=1, seed=seed).cosines[:, :1].astype(np.float64)
    near = neighbours(vectors, k=1, among=theirs, seed=seed)
    distance = 1 - near.cosines[:, 0].astype(np.float64)
    middle = float(np.median(usual)) if usual.size else 0.0
    spread = max(CONSISTENT * float(np.median(abs(usual - middle))) if usual.size else 0.0, LEAST_SPREAD)
    scores = np.minimum((distance - middle) / spread, FIRST - len(told) - 1)
    for row in (scores > BOUND).nonzero()[0].tolist():
        nearest = shown(other.texts[near.rows[row, 0]])
        reason = f"of the other file the row most like it has a cosine of {1 - distance[row]:.2f}: {nearest!r}"
        told.append(Finding("drift", (row,), float(scores[row]), reason))
    return ranked(told)


def _side(texts: Sequence[str], labels: Sequence[str] | None) -> Side:
    return Side(texts, [[label] for label in labels] if labels is not None else ())
