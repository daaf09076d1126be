"""Planted triggers: rare tokens or phrases whose presence turns the label against what the rest of the data says (Gu, Dolan-Gavitt and
Garg 2017; for texts Kurita, Michel and Neubig 2020).

Enters: texts, labels, vectors and out-of-fold probabilities. Leaves: findings for phrases that stand in few rows, whose rows carry other
labels than a model expects that has seen none of them. The score is the evidence in bits: the negative binary logarithm of a bound on
the probability that chance alone does as much, times the number of phrases and labels that were tried (Hoeffding 1963, theorem 1,
which holds for unequal chances). A phrase that is natural for its label turns nothing: the vectors of its rows say what the label says.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.workshop.quality.finding import Finding, ranked
from luthier.workshop.quality.folds import predicted
from luthier.workshop.quality.ngrams import Presence, presence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST = 3
FEWEST = 5
"""Rows that a trigger must be in."""
RARE = 0.1
"""The share of all rows that a trigger may be in."""
CANDIDATES = 25
"""Phrases for which a model is asked that has seen no row with them."""
SAME = 0.8
"""A phrase with so much of its rows in those of a stronger one is no finding of its own."""
MOST = 4000
"""Rows that such a model learns from, at most."""
TURNED = 0.3
"""The share of its rows that a phrase turns at least, beyond what is expected: below that, a word says more than the vectors show."""


@dataclass(frozen=True)
class _Turn:
    """The strongest test of a phrase: rows that were observed and expected, what they carry, and the evidence in bits."""

    bits: float
    seen: int
    expected: float
    label: int | None
    """None: another label than the likeliest."""


def triggers(
    texts: Sequence[str],
    gold: NDArray[np.int64],
    vectors: NDArray[Any],
    probabilities: NDArray[np.float64],
    names: Sequence[str],
    *,
    among: Presence | None = None,
    seed: int = 0,
) -> list[Finding]:
    """Phrases that turn the label, the strongest evidence first."""
    import numpy as np

    held = among if among is not None else presence(texts, longest=LONGEST, fewest=FEWEST)
    rng = np.random.default_rng(seed)
    found = []
    for phrase in _candidates(held, gold, probabilities):
        rows = held.rows(phrase)
        rest = np.setdiff1d(np.arange(len(gold)), rows)
        if len(rest) > MOST:
            rest = np.sort(rng.choice(rest, MOST, replace=False))
        without = predicted(vectors[rest], gold[rest], vectors[rows], classes=len(names))
        turn = _strongest(gold[rows], without)
        bits = turn.bits - math.log2(len(held.names) * (len(names) + 1))
        if bits > 0 and turn.seen - turn.expected >= TURNED * len(rows):
            found.append(_finding(held.names[phrase], rows, turn, bits, without, names))
    return ranked(found)


def evidence(seen: NDArray[np.float64], expected: NDArray[np.float64], rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Bits that speak against `seen` of `rows` where `expected` is the sum of their chances: rows times the divergence of the two shares.

    Chance gives as many or more with a probability of at most 2 ** -bits. Nothing where there are not more than expected.
    """
    import numpy as np

    p, q = (np.clip(x / np.maximum(rows, 1), 1e-9, 1 - 1e-9) for x in (seen, expected))
    return np.where(seen > expected, rows * (p * np.log2(p / q) + (1 - p) * np.log2((1 - p) / (1 - q))), 0.0)


def _candidates(held: Presence, gold: NDArray[np.int64], probabilities: NDArray[np.float64]) -> list[int]:
    """The phrases with the strongest evidence by the probabilities that are there, of like ones the longest."""
    import numpy as np

    best = probabilities.argmax(axis=1)
    rows = np.diff(held.table.indptr).astype(float)
    labels = evidence(held.by_label(gold, probabilities.shape[1]).astype(float), np.asarray(held.table.T @ probabilities), rows[:, None])
    other = evidence(held.table.T @ (gold != best).astype(float), held.table.T @ (1 - probabilities.max(axis=1)), rows)
    bits = np.maximum(labels.max(axis=1, initial=0), other)
    bits[rows > RARE * len(gold)] = 0
    chosen: list[int] = []
    taken: list[set[int]] = []
    for phrase in sorted(np.flatnonzero(bits > 0).tolist(), key=lambda i: (-round(bits[i], 6), -held.names[i].count(" "), i)):
        own = set(held.rows(phrase).tolist())
        if all(len(own & others) < SAME * len(own) for others in taken):
            chosen.append(phrase)
            taken.append(own)
        if len(chosen) == CANDIDATES:
            break
    return chosen


def _strongest(gold: NDArray[np.int64], without: NDArray[np.float64]) -> _Turn:
    """The strongest of the tests for some rows: each label, and a label other than the likeliest."""
    import numpy as np

    best, rows = without.argmax(axis=1), np.array(float(len(gold)))
    seen = np.append(np.bincount(gold, minlength=without.shape[1]), (gold != best).sum()).astype(float)
    expected = np.append(without.sum(axis=0), (1 - without.max(axis=1)).sum())
    bits = evidence(seen, expected, rows)
    place = int(bits.argmax())
    return _Turn(float(bits[place]), int(seen[place]), float(expected[place]), place if place < without.shape[1] else None)


def _finding(phrase: str, rows: NDArray[np.int64], turn: _Turn, bits: float, without: NDArray[np.float64], names: Sequence[str]) -> Finding:
    what = "another label than the likeliest" if turn.label is None else f"the label {names[turn.label]}"
    reason = (
        f"{phrase!r} stands in {len(rows)} rows, and {turn.seen} of them have {what}, where {turn.expected:.0f} are expected by the rows "
        "without it"
    )
    return Finding("trigger", tuple(rows.tolist()), bits, reason, tuple(names[i] for i in without.argmax(axis=1).tolist()))
