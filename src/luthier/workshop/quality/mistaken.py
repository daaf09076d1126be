"""Rows whose label is probably wrong, from nothing but texts and labels: what `data.mend` asks.

Enters: texts and their labels, by place among the names of classes. Leaves: findings, and what is to be told.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from luthier.workshop.embed import embed
from luthier.workshop.quality.finding import Finding
from luthier.workshop.quality.inconsistent import copies
from luthier.workshop.quality.label_errors import judge
from luthier.workshop.quality.neighbours import NEAREST, neighbours
from luthier.workshop.quality.worded import with_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.workflow.similar import Named


@dataclass(frozen=True)
class Mistaken:
    """Label errors, the surest first, and notes."""

    findings: list[Finding]
    notes: list[str]


def mistaken(texts: Sequence[str], gold: NDArray[np.int64], names: Sequence[str], *, model: Named, seed: int = 0) -> Mistaken:
    """Judge every label. Raises DataError where too few texts have one, ModelError where the model cannot be had."""
    embedded = embed(texts, model=model)
    groups = copies(texts, neighbours(embedded.vectors, k=NEAREST, seed=seed))
    judged = judge(with_words(texts, embedded.vectors), gold, names, groups=groups, seed=seed)
    return Mistaken(judged.errors(), [*embedded.notes, *judged.notes])
