"""Which rows are hard and which are easy, by the margin between the two likeliest classes of a model that did not learn from them.

Enters: labels and out-of-fold probabilities. Leaves: the rows that stand between two classes of which the given one is one (people
should look at them, or more like them be found), and those that are plain (they teach little that the others do not). Rows that are
confidently of another class are no hard ones but suspected label errors, and are left to those.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.workshop.quality.finding import Finding

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def hard(gold: NDArray[np.int64], probabilities: NDArray[np.float64], names: Sequence[str], *, most: int) -> list[Finding]:
    """The `most` rows with the smallest margin either way; the score is 1 less its size."""
    margin, other = _margin(gold, probabilities)
    return [
        Finding(
            "hard", (row,), float(1 - abs(margin[row])),
            f"between {names[gold[row]]} {probabilities[row, gold[row]]:.0%} and {names[other[row]]} {probabilities[row, other[row]]:.0%}",
        )
        for row in abs(margin).argsort(kind="stable")[:most].tolist()
    ]  # fmt: skip


def easy(gold: NDArray[np.int64], probabilities: NDArray[np.float64], names: Sequence[str], *, most: int) -> list[Finding]:
    """The `most` rows with the largest margin for their own label, which is the score."""
    margin, _ = _margin(gold, probabilities)
    rows = (-margin).argsort(kind="stable")[:most].tolist()
    return [
        Finding("easy", (r,), float(margin[r]), f"plainly {names[gold[r]]}: {probabilities[r, gold[r]]:.1%}") for r in rows if margin[r] > 0
    ]


def _margin(gold: NDArray[np.int64], probabilities: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """How much likelier the given class is than the likeliest other one, which is the second."""
    rows, others = range(len(gold)), probabilities.copy()
    others[rows, gold] = -1
    other = others.argmax(axis=1)
    return probabilities[rows, gold] - probabilities[rows, other], other
