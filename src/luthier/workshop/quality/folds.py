"""What a model says of rows that it has not learned from.

Enters: frozen vectors, labels, and which rows are copies of each other. Leaves: for each row the probability of each class, by a
logistic regression that learned from the other parts of the rows. Copies stay in one part, or a wrong label would vouch for itself.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FOLDS = 5
STRENGTH = 2.0
"""Inverse of the penalty on the squared weights: firmer than for a model that has to be right, so that wrong labels are not learned."""
ITERATIONS = 60
BELIEVED = 0.02
"""What is believed less of a row is not learned."""
LEAST = 1e-6
"""The lowest probability that is given, so that logarithms stay finite."""


def out_of_fold(
    vectors: NDArray[Any],
    gold: NDArray[np.int64],
    *,
    classes: int,
    groups: NDArray[np.int64],
    beliefs: NDArray[np.float64] | None = None,
    strength: float = STRENGTH,
    seed: int = 0,
) -> NDArray[np.float64]:
    """Probabilities (rows, classes) from vectors (rows, width) and labels (rows,); each line sums to 1.

    `groups` (rows,) has the same number for copies. Where `beliefs` (rows, classes) are given, each row is learned from as of every class,
    as much as that is believed. `strength` is the inverse of the penalty on the squared weights.
    """
    import numpy as np

    part = parts(gold, groups, folds=FOLDS, seed=seed)
    rows, learned, weights = np.arange(len(gold)), gold, np.ones(len(gold))
    if beliefs is not None:
        rows, learned = np.nonzero(beliefs > BELIEVED)
        weights = beliefs[rows, learned]
    found = np.full((len(gold), classes), LEAST)
    for fold in range(FOLDS):
        held, seen = part == fold, part[rows] != fold
        if held.any() and seen.any():
            known = vectors[rows[seen]]
            found[held] = predicted(known, learned[seen], vectors[held], classes=classes, weights=weights[seen], strength=strength)
    return found / found.sum(axis=1, keepdims=True)


def predicted(
    vectors: NDArray[Any],
    gold: NDArray[np.int64],
    held: NDArray[Any],
    *,
    classes: int,
    weights: NDArray[np.float64] | None = None,
    strength: float = STRENGTH,
) -> NDArray[np.float64]:
    """What a regression that learned from `vectors` and `gold`, each as much as its weight, says of `held`, (held rows, classes)."""
    import warnings

    import numpy as np
    from sklearn.linear_model import LogisticRegression

    found = np.full((len(held), classes), LEAST)
    seen = np.unique(gold)
    if len(seen) == 1:
        found[:, seen] = 1.0
    else:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the last iteration is good enough where it does not converge before
            model = LogisticRegression(C=strength, max_iter=ITERATIONS).fit(vectors, gold, sample_weight=weights)
        found[:, model.classes_] = np.maximum(model.predict_proba(held), LEAST)
    return found / found.sum(axis=1, keepdims=True)


def parts(gold: NDArray[np.int64], groups: NDArray[np.int64], *, folds: int, seed: int) -> NDArray[np.int64]:
    """The part of each row, (rows,): a group is in one, and each class is spread evenly over them by the label of a group's first row."""
    import numpy as np

    rng = np.random.default_rng(seed)
    _, first, member = np.unique(groups, return_index=True, return_inverse=True)
    labels, part = gold[first], np.zeros(len(first), np.int64)
    start = 0
    for label in np.unique(labels):
        own = rng.permutation(np.flatnonzero(labels == label))
        part[own] = (start + np.arange(len(own))) % folds  # goes on where the last class ended, so that small classes fill all parts
        start += len(own)
    return part[member]
