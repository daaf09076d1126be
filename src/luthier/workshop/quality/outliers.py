"""Rows that are like no other: of another language or topic, garbage, or the one example of its kind.

Enters: texts and each row's neighbours. Leaves: findings for the rows whose mean distance to their nearest ones is far above the usual.
The score is how far, in robust standard deviations (median and median absolute deviation; Iglewicz and Hoaglin 1993, who
take 3.5 as the bound).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.workshop.quality.finding import Finding, ranked, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.workshop.quality.neighbours import Neighbours

BOUND = 3.5
CONSISTENT = 1.4826
"""What makes the median absolute deviation of normal numbers their standard deviation."""
LEAST_SPREAD = 0.01
"""Of cosines; below that, rows that are nearly copies of each other would make every other one stand out."""


def outliers(texts: Sequence[str], near: Neighbours) -> list[Finding]:
    """Rows far from all others."""
    scores = distance_scores(near)
    found = []
    for row in (scores > BOUND).nonzero()[0].tolist():
        reason = f"the row most like it has a cosine of {near.cosines[row, 0]:.2f}: {shown(texts[near.rows[row, 0]])!r}"
        found.append(Finding("outlier", (row,), float(scores[row]), reason))
    return ranked(found)


def distance_scores(near: Neighbours) -> NDArray[np.float64]:
    """How far the mean distance of each row to its neighbours is above the usual, in robust standard deviations, (rows,)."""
    import numpy as np

    if near.cosines.shape[1] == 0:
        return np.zeros(len(near.cosines))
    distance = 1 - near.cosines.mean(axis=1, dtype=np.float64)
    middle = np.median(distance)
    spread = CONSISTENT * np.median(abs(distance - middle))
    return np.asarray((distance - middle) / max(float(spread), LEAST_SPREAD))
