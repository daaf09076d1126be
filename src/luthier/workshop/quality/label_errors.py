"""Labels that are probably wrong.

Enters: labels, and vectors or out-of-fold probabilities. Leaves: findings for the rows of which another class is likelier to be right than
the given one is, by what other rows say of them and by how labels came to be wrong in this file (`noise`), most suspicious first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.workshop.quality.finding import Finding, ranked
from luthier.workshop.quality.folds import FOLDS, out_of_fold
from luthier.workshop.quality.noise import believed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LENIENT = 10.0
"""Inverse of the penalty in the second round: it learns what is believed, and may hold on to it."""


@dataclass(frozen=True)
class Judged:
    """What other rows say of the labels: `chances` (rows, classes) out of fold, for the `rows` that have a label with enough rows.

    `gold` is each one's place in `names`, the classes that are judged.
    """

    rows: NDArray[np.int64]
    gold: NDArray[np.int64]
    chances: NDArray[np.float64]
    names: list[str]
    notes: list[str]


def judge(vectors: NDArray[Any], gold: NDArray[np.int64], names: Sequence[str], *, groups: NDArray[np.int64], seed: int = 0) -> Judged:
    """Two rounds over the rows of every class that fills the folds."""
    import numpy as np

    few = np.bincount(gold, minlength=len(names))[gold] < FOLDS
    notes = [f"{few.sum()} rows are of classes with fewer than {FOLDS} rows: their labels are not judged"] if few.any() else []
    rows = np.flatnonzero(~few)
    inside, kept = np.unique(gold[rows], return_inverse=True)
    chances = two_rounds(vectors[rows], kept, classes=len(inside), groups=groups[rows], seed=seed)
    return Judged(rows, kept, chances, [names[i] for i in inside], notes)


def label_errors(gold: NDArray[np.int64], probabilities: NDArray[np.float64], names: Sequence[str]) -> list[Finding]:
    """Rows of which another class is likelier; the score is the probability that the label is wrong."""
    beliefs = believed(gold, probabilities)
    best, scores = beliefs.argmax(axis=1), suspicion(gold, beliefs)
    found = []
    for row in (best != gold).nonzero()[0].tolist():
        right, given = beliefs[row, best[row]], beliefs[row, gold[row]]
        reason = (
            f"{names[best[row]]} is right with {right:.0%}, the given {names[gold[row]]} with {given:.0%}, by rows that it was not among"
        )
        found.append(Finding("label_error", (row,), float(scores[row]), reason, (names[best[row]],)))
    return ranked(found)


def two_rounds(
    vectors: NDArray[Any], gold: NDArray[np.int64], *, classes: int, groups: NDArray[np.int64], seed: int = 0
) -> NDArray[np.float64]:
    """Out-of-fold probabilities, (rows, classes), of a model that learned what the first round leaves to be believed of each row."""
    beliefs = believed(gold, out_of_fold(vectors, gold, classes=classes, groups=groups, seed=seed))
    return out_of_fold(vectors, gold, classes=classes, groups=groups, beliefs=beliefs, strength=LENIENT, seed=seed)


def suspicion(gold: NDArray[np.int64], beliefs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability that each row's label is wrong, (rows,)."""
    import numpy as np

    return 1 - beliefs[np.arange(len(gold)), gold]
