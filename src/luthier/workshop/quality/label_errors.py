"""Labels that are probably wrong.

Enters: labels, and vectors or out-of-fold probabilities. Leaves: findings for the rows of which another class is likelier to be right than
the given one is, by what other rows say of them and by how labels came to be wrong in this file (`noise`), most suspicious first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.errors import DataError
from luthier.workshop.quality.finding import Finding, placed, ranked
from luthier.workshop.quality.folds import FOLDS, out_of_fold
from luthier.workshop.quality.noise import believed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LENIENT = 10.0
"""Inverse of the penalty in the second round: it learns what is believed, and may hold on to it."""


@dataclass(frozen=True)
class Judged:
    """What other rows say of the labels: `chances` (rows, classes) out of fold, for the `rows` that have a label with enough texts.

    `gold` is each one's place in `names`, the classes that are judged. `chances` is None where others say nothing of a label.
    """

    rows: NDArray[np.int64]
    gold: NDArray[np.int64]
    chances: NDArray[np.float64] | None
    names: list[str]
    notes: list[str]

    def errors(self) -> list[Finding]:
        """Label errors, by the places that the rows have among all."""
        return [] if self.chances is None else placed(label_errors(self.gold, self.chances, self.names), self.rows)


def judge(vectors: NDArray[Any], gold: NDArray[np.int64], names: Sequence[str], *, groups: NDArray[np.int64], seed: int = 0) -> Judged:
    """Two rounds over the rows of every class that fills the folds: copies are in one fold, and fill it alone.

    Raises DataError where fewer than two classes do.
    """
    import numpy as np

    apart = np.unique(np.stack([gold, groups]), axis=1)[0]
    few = np.bincount(apart, minlength=len(names))[gold] < FOLDS
    notes = [f"{few.sum()} rows are of classes with fewer than {FOLDS} different texts: their labels are not judged"] if few.any() else []
    rows = np.flatnonzero(~few)
    inside, kept = np.unique(gold[rows], return_inverse=True)
    if len(inside) < 2:
        raise DataError(
            f"fewer than two labels have {FOLDS} different texts: they cannot be judged", remedy="find more texts of each label"
        )
    chances = two_rounds(vectors[rows], kept, classes=len(inside), groups=groups[rows], seed=seed)
    if chances is None:
        notes.append("what rows say of each other's labels is no better than chance: no label is judged")
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
) -> NDArray[np.float64] | None:
    """Out-of-fold probabilities, (rows, classes), of a model that learned what the first round leaves to be believed of each row.

    None where the first round says no more of a label than how many rows carry it: the second would believe what chance says.
    """
    first = out_of_fold(vectors, gold, classes=classes, groups=groups, seed=seed)
    if not telling(gold, first):
        return None
    beliefs = believed(gold, first)
    return out_of_fold(vectors, gold, classes=classes, groups=groups, beliefs=beliefs, strength=LENIENT, seed=seed)


def telling(gold: NDArray[np.int64], probabilities: NDArray[np.float64]) -> bool:
    """Whether the labels are likelier by these probabilities than by their shares, by more than chance: three standard errors."""
    import numpy as np

    shares = np.bincount(gold, minlength=probabilities.shape[1]) / len(gold)
    gain = np.log(probabilities[np.arange(len(gold)), gold]) - np.log(shares[gold])
    return bool(gain.mean() > 3 * gain.std() / np.sqrt(len(gold)))


def suspicion(gold: NDArray[np.int64], beliefs: NDArray[np.float64]) -> NDArray[np.float64]:
    """The probability that each row's label is wrong, (rows,)."""
    import numpy as np

    return 1 - beliefs[np.arange(len(gold)), gold]
