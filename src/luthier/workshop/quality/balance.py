"""How the classes are filled: too few rows to learn from, or one class that drowns the rest.

Enters: labels. Leaves: a finding for each class that is too small, and one where the largest is many times the smallest; the score is
how many times too few, or too many, rows there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.workshop.quality.finding import Finding, ranked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FEW = 10
"""Rows that a class should have."""
UNEVEN = 10.0
"""How many times the rows of the smallest class the largest may have."""


def balance(gold: NDArray[np.int64], names: Sequence[str]) -> list[Finding]:
    """Classes with too few rows or too many."""
    import numpy as np

    counts = np.bincount(gold, minlength=len(names))
    found = []
    for label, count in enumerate(counts.tolist()):
        if count < FEW:
            told = f"{names[label]!r} has {count} row{'s' * (count != 1)} of {len(gold)}: find more, or merge it with another"
            found.append(Finding("balance", tuple(np.flatnonzero(gold == label).tolist()), FEW / max(count, 0.5), told))
    median, largest = float(np.median(counts)), int(counts.argmax())
    smallest = int(counts.argmin())
    if counts[largest] > UNEVEN * max(1, counts[smallest]):
        times = counts[largest] / max(1, counts[smallest])
        told = (
            f"{names[largest]!r} has {counts[largest] / len(gold):.0%} of the rows, {times:.0f} times as many as {names[smallest]!r} "
            f"({counts[smallest]}; a class has {median:g} at the median): judge by macro F1, which counts every class alike"
        )
        found.append(Finding("balance", (), float(times / UNEVEN), told))
    return ranked(found)
