"""Labels that are probably wrong: confident learning (Northcutt, Jiang and Chuang 2021, Journal of Artificial Intelligence Research 70).

Enters: labels and out-of-fold probabilities. Leaves: findings for as many rows as are estimated to carry a wrong label, most suspicious
first, with the label each might have instead. A row is confidently of a class where the class' probability is at least what it is on
average for the rows that carry it (the threshold of equation 2): a class that the model is never sure of is not held to what others
reach. The table of given labels and confident classes, scaled to the rows that there are, says how many are wrong (equation 3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.workshop.quality.finding import Finding, ranked
from luthier.workshop.quality.folds import out_of_fold

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def label_errors(gold: NDArray[np.int64], probabilities: NDArray[np.float64], names: Sequence[str]) -> list[Finding]:
    """Rows whose label others speak against; the score is their `suspicion`."""
    scores, other = suspicion(gold, probabilities), likeliest_other(gold, probabilities)
    found = []
    for row in suspects(gold, probabilities).tolist():
        given, instead = probabilities[row, gold[row]], probabilities[row, other[row]]
        reason = f"{names[other[row]]} has {instead:.0%}, the given {names[gold[row]]} {given:.0%}, by rows that it was not among"
        found.append(Finding("label_error", (row,), float(scores[row]), reason, (names[other[row]],)))
    return ranked(found)


def two_rounds(
    vectors: NDArray[Any], gold: NDArray[np.int64], *, classes: int, groups: NDArray[np.int64], seed: int = 0
) -> NDArray[np.float64]:
    """Out-of-fold probabilities, (rows, classes): the geometric mean of a first round and of one that did not learn from its suspects.

    Among labels that were confused with their nearest class, the second finds more; among those that are wrong at random, the first.
    """
    import numpy as np

    first = out_of_fold(vectors, gold, classes=classes, groups=groups, seed=seed)
    trusted = np.ones(len(gold), bool)
    trusted[suspects(gold, first)] = False
    second = out_of_fold(vectors, gold, classes=classes, groups=groups, trusted=trusted, seed=seed)
    both = np.sqrt(first * second)
    return np.asarray(both / both.sum(axis=1, keepdims=True))


def suspects(gold: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.int64]:
    """The most suspicious rows, as many as are estimated to be wrong; none whose own label is the likeliest."""
    import numpy as np

    joint = confident_joint(gold, probabilities)
    counted, rows = joint.sum(axis=1), np.bincount(gold, minlength=len(joint))
    wrong = (rows * (1 - np.diagonal(joint) / np.maximum(counted, 1)))[counted > 0].sum()
    scores = suspicion(gold, probabilities)
    order = np.argsort(-scores, kind="stable")[: round(float(wrong))]
    return order[scores[order] > 0.5]


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
