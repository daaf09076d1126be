"""Which classes rows are confidently of: confident learning (Northcutt, Jiang and Chuang 2021, J. Artificial Intelligence Research 70).

Enters: labels and out-of-fold probabilities. Leaves: a table of given labels and confident classes. A row is confidently of a class where
the class' probability is at least what it is on average for the rows that carry it (the threshold of equation 2): a class that the model
is never sure of is not held to what others reach.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


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
