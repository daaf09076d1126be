"""What a look at the data finds: rows, a score, and the reason in words.

Every file of this room has one function that looks for one thing. Enters: the texts, their labels as numbers, and vectors or
probabilities, as far as it needs them. Leaves: findings, worst first. None of them changes a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

Kind = Literal["label_error", "inconsistent", "trigger", "shortcut", "balance", "outlier", "hard", "easy", "drift"]
KINDS: dict[Kind, str] = {
    "label_error": "labels that other rows speak against",
    "inconsistent": "like texts with unlike labels",
    "trigger": "rare words that turn the label (backdoors)",
    "shortcut": "words and lengths that give the label away",
    "balance": "how the classes are filled",
    "outlier": "rows that are like no other",
    "hard": "rows between two classes",
    "easy": "rows that teach nothing new",
    "drift": "how another file differs",
}
"""What each kind tells, in the order in which they are shown."""


@dataclass(frozen=True)
class Finding:
    """Something to look at.

    `rows` are places in the texts that were looked at. `score` ranks the findings of one kind, higher first; each file
    says what it is. `suggested` is the label that each of the rows might have, which may be its own; empty where nothing is suggested.
    """

    kind: Kind
    rows: tuple[int, ...]
    score: float
    reason: str
    suggested: tuple[str, ...] = ()


def ranked(found: Sequence[Finding]) -> list[Finding]:
    """The highest score first; of equal ones, the one that stands earlier in the file."""
    return sorted(found, key=lambda f: (-f.score, f.rows[:1]))


def placed(found: Sequence[Finding], places: NDArray[np.int64]) -> list[Finding]:
    """Findings about some of the rows, with the places that these have among all."""
    return ranked([replace(f, rows=tuple(places[list(f.rows)].tolist())) for f in found])


def shown(text: str, *, most: int = 60) -> str:
    """A text in one line, cut."""
    flat = " ".join(text.split())
    return flat if len(flat) <= most else flat[: most - 1] + "…"
