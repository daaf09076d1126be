"""How labels came to be wrong, and what each row's label was before that.

Enters: labels and out-of-fold probabilities. Leaves: for each row the probability that each class is its right one. A label is taken to be
drawn from the line of the right class in a table of noise, which says how often a class is mistaken, and for which (Patrini et al. 2017,
CVPR). The table and the sharpness of the probabilities are those that make the given labels likeliest, by expectation and maximisation:
a model that learned from wrong labels too is less sure than it should be, and says more of a row once it is known that class A is often
given for B. Which classes a class is mistaken for has a symmetric Dirichlet prior whose strength is the likeliest as well (Minka 2000,
"Estimating a Dirichlet distribution"), so that mistakes may go to one class, or to all alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from luthier.workshop.quality.confident import confident_joint

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ROUNDS = 4
SHARPNESS = (0.5, 8.0)
"""The powers that probabilities are raised to, from the lowest to the highest tried."""
CONCENTRATION = (1e-3, 30.0)
"""The least and the most that each mistake is counted for before any is seen."""
LIKE_THE_REST = 10.0
"""Rows that a class is counted for beside its own, mistaken as often as all rows are."""
MOST = 0.5
"""The highest share of a class that is taken to be mistaken: beyond it, the names of the classes would be in question."""


def believed(gold: NDArray[np.int64], probabilities: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each row (line) the probability that each class (column) is the right one, given its label and what other rows say of it.

    `gold` is (rows,), `probabilities` (rows, classes) of each row by a model that did not learn from it.
    """
    import numpy as np

    joint = confident_joint(gold, probabilities).astype(np.float64)
    rows = np.bincount(gold, minlength=len(joint))
    noise = _noise((joint / np.maximum(joint.sum(axis=1, keepdims=True), 1) * rows[:, None]).T)
    for _ in range(ROUNDS):
        beliefs = _beliefs(gold, _sharpened(probabilities, _sharpness(gold, probabilities, noise)), noise)
        counts = np.zeros_like(noise)
        np.add.at(counts, gold, beliefs)
        noise = _noise(counts.T)
    return beliefs


def _beliefs(gold: NDArray[np.int64], probabilities: NDArray[np.float64], noise: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bayes' rule: what was said of the row, times how often each class is given this label."""
    both = probabilities * noise.T[gold]
    return both / both.sum(axis=1, keepdims=True)


def _noise(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    """How often each class (line) is given each label (column), from how often it was taken to be."""
    import numpy as np

    mistaken = counts.copy()
    np.fill_diagonal(mistaken, 0)
    every, wrong = counts.sum(axis=1), mistaken.sum(axis=1)
    share = np.minimum((wrong + LIKE_THE_REST * wrong.sum() / every.sum()) / (every + LIKE_THE_REST), MOST)
    likely = mistaken + _concentration(mistaken)
    np.fill_diagonal(likely, 0)
    noise = likely / likely.sum(axis=1, keepdims=True) * share[:, None]
    np.fill_diagonal(noise, 1 - share)
    return noise


def _concentration(mistaken: NDArray[np.float64]) -> float:
    """The strength of the prior under which these counts of mistakes, (classes, classes), are likeliest."""
    import numpy as np
    from scipy.special import gammaln

    others = len(mistaken) - 1
    if others < 2:
        return 1.0
    wrong = mistaken.sum(axis=1)
    apart = mistaken[~np.eye(len(mistaken), dtype=bool)]

    def unlikely(strength: float) -> float:
        lines = gammaln(others * strength) - gammaln(others * strength + wrong)
        return -float(lines.sum() + (gammaln(apart + strength) - gammaln(strength)).sum())

    return _least(unlikely, *CONCENTRATION)


def _sharpness(gold: NDArray[np.int64], probabilities: NDArray[np.float64], noise: NDArray[np.float64]) -> float:
    """The power to which the probabilities make the labels likeliest."""
    import numpy as np

    given = noise.T[gold]

    def unlikely(power: float) -> float:
        return -float(np.log((_sharpened(probabilities, power) * given).sum(axis=1)).sum())

    return _least(unlikely, *SHARPNESS)


def _sharpened(probabilities: NDArray[np.float64], power: float) -> NDArray[np.float64]:
    raised = probabilities**power
    return raised / raised.sum(axis=1, keepdims=True)


def _least(function: Callable[[float], float], low: float, high: float) -> float:
    """Where a function of a positive number is least, to a hundredth."""
    import numpy as np
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(lambda x: function(np.exp(x)), bounds=(np.log(low), np.log(high)), method="bounded", options={"xatol": 0.01})
    return float(np.exp(found.x))
