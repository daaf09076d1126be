"""Labels that are probably wrong: confident learning (Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence Research 70).

Enters: labels and out-of-fold probabilities. Leaves: a finding for each row that is confidently of another class, most suspicious
first, with the label it might have instead. A class is given a row confidently where its probability is at least what it is on
average for the rows that carry it (the threshold of equation 2): a class that the model is never sure of is not held to what others reach.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.workshop.quality.finding import Finding, ranked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def label_errors(gold: NDArray[np.int64], probabilities: NDArray[np.float64], names: Sequence[str]) -> list[Finding]:
    """Rows whose label others speak against; the score is their `suspicion`."""
    confident = confident_class(gold, probabilities)
    scores, other = suspicion(gold, probabilities), likeliest_other(gold, probabilities)
    found = []
    for row in ((confident >= 0) & (confident != gold)).nonzero()[0].tolist():
        given, instead = probabilities[row, gold[row]], probabilities[row, other[row]]
        reason = f"{names[other[row]]} has {instead:.0%}, the given {names[gold[row]]} {given:.0%}, by rows that it was not among"
        found.append(Finding("label_error", (row,), float(scores[row]), reason, (names[other[row]],)))
    return ranked(found)


def thresholds(gold: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each class the mean of its probability over the rows that carry it, (classes,); infinite for a class without rows."""
    import numpy as np

    classes = probabilities.shape[1]
    sums = np.bincount(gold, weights=probabilities[np.arange(len(gold)), gold], minlength=classes)
    counts = np.bincount(gold, minlength=classes)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)


def confident_class(gold: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """For each row the likeliest of the classes whose threshold it reaches, (rows,); -1 where it reaches none (equation 1)."""
    import numpy as np

    reached = probabilities >= thresholds(gold, probabilities) - 1e-12
    best = np.where(reached, probabilities, -1).argmax(axis=1)
    return np.where(reached.any(axis=1), best, -1)


def confident_joint(gold: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """How many rows with the label of the line are confidently of the class of the column, (classes, classes)."""
    import numpy as np

    classes = probabilities.shape[1]
    confident = confident_class(gold, probabilities)
    counted = confident >= 0
    table = np.zeros((classes, classes), np.int64)
    np.add.at(table, (gold[counted], confident[counted]), 1)
    return table


def likeliest_other(gold: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """The likeliest class beside the given one, (rows,)."""
    others = probabilities.copy()
    others[range(len(gold)), gold] = -1
    chosen: NDArray[np.int64] = others.argmax(axis=1)
    return chosen


def suspicion(gold: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """How much speaks against each row's label, from 0 to 1, (rows,): the likeliest other class' share of its and the label's probability.

    A ratio finds more of the planted errors than a difference: among many classes both may be small.
    """
    import numpy as np

    rows = np.arange(len(gold))
    given, other = probabilities[rows, gold], probabilities[rows, likeliest_other(gold, probabilities)]
    return np.asarray(other / (given + other))
