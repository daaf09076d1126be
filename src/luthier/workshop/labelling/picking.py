"""Active learning: which rows a person should label next.

Enters: the vectors of all rows, what is labelled, what may be asked. Leaves: rows to ask. Most strategies ask a model where it
does not know; a batch is not the least known rows, which are often alike, but some of these that lie apart. Until two classes are
known there is no model, and rows are picked by `diversity`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from luthier.workshop.labelling.learner import Fitted, Vectors, fit

Rows = NDArray[np.int64]
COMMITTEE = 5
"""Models of a committee."""
WIDER = 4
"""A batch is chosen from so many times the rows that are wanted."""
MOST = 50_000
"""Rows that are looked at in a round; of more, so many by chance."""


@dataclass(frozen=True)
class Round:
    """What is known when the next rows are picked.

    `vectors` (rows, width) have length 1; `known` says the class of some rows; `open` are those that may be asked; `draw` is
    where chance comes from.
    """

    vectors: Vectors
    known: Mapping[int, str]
    open: Rows
    draw: np.random.Generator

    @cached_property
    def taught(self) -> Rows:
        """The rows whose class is known."""
        return np.fromiter(self.known, dtype=np.int64, count=len(self.known))

    @cached_property
    def model(self) -> Fitted:
        """The linear model of what is known."""
        return self._fitted()

    @cached_property
    def likely(self) -> NDArray[np.float64]:
        """How likely each class is for the rows that may be asked, (open, classes)."""
        return self.model.probabilities(self.vectors[self.open])

    @property
    def teachable(self) -> bool:
        """Whether two classes are known, without which there is no model."""
        return len(set(self.known.values())) > 1

    def committee(self) -> NDArray[np.float64]:
        """What each model of a committee thinks, (models, open, classes).

        Each weighs what is known anew by the Bayesian bootstrap (Rubin 1981): in a plain one, rare classes would be missing.
        """
        weights = self.draw.exponential(size=(COMMITTEE, len(self.taught)))
        return np.stack([self._fitted(w).probabilities(self.vectors[self.open]) for w in weights])

    def _fitted(self, weights: NDArray[np.float64] | None = None) -> Fitted:
        return fit(self.vectors[self.taught], list(self.known.values()), weights=weights)


def pick(strategy: str, found: Round, count: int) -> list[int]:
    """The next rows to ask, at most `count`. `strategy` is one of STRATEGIES."""
    if len(found.open) > MOST:
        some = np.sort(found.draw.choice(found.open, MOST, replace=False))
        found = Round(found.vectors, found.known, some, found.draw)
    count = min(count, len(found.open))
    if not count:
        return []
    if strategy == "random":
        return [int(i) for i in found.draw.permutation(found.open)[:count]]
    if strategy in DOUBTS and found.teachable:
        near = found.open[np.argsort(-DOUBTS[strategy](found), kind="stable")[: WIDER * count]]
        return [int(i) for i in near[centers(found.vectors[near], count)]]
    return [int(i) for i in diversity(found, count)]


def uncertainty(found: Round) -> Doubt:
    """How unlikely the likeliest class is: least confidence (Lewis and Gale 1994)."""
    return np.asarray(1 - found.likely.max(axis=1))


def margin(found: Round) -> Doubt:
    """How close the two likeliest classes are (Scheffer, Decomain and Wrobel 2001)."""
    return -_margins(found.likely)


def entropy(found: Round) -> Doubt:
    """The entropy of the classes' probabilities (Settles 2009, sec. 3.1)."""
    return _entropies(found.likely)


def committee(found: Round) -> Doubt:
    """The entropy of a committee's votes (Engelson and Dagan 1996); among equal ones, how close its two likeliest classes are."""
    each = found.committee()
    votes = np.stack([(each.argmax(axis=2) == c).mean(axis=0) for c in range(each.shape[2])], axis=1)
    return np.asarray(_entropies(votes) - 1e-3 * _margins(each.mean(axis=0)))


def diversity(found: Round, count: int) -> Rows:
    """K-center: each time the row that is farthest from all that are labelled or picked (Sener and Savarese 2018, alg. 1)."""
    return found.open[centers(found.vectors[found.open], count, beside=found.vectors[found.taught])]


def centers(vectors: Vectors, count: int, *, beside: Vectors | None = None) -> Rows:
    """Places of vectors, each as far as can be from those before it and from all `beside`; without these, the most usual one first."""
    if beside is not None and len(beside):
        nearest = np.concatenate([(vectors[i : i + 4096] @ beside.T).max(axis=1) for i in range(0, len(vectors), 4096)])
    else:
        nearest = np.full(len(vectors), -np.inf, dtype=np.float32)
    chosen = []
    for number in range(min(count, len(vectors))):
        first = number == 0 and not np.isfinite(nearest[0])
        place = int((vectors @ vectors.mean(axis=0)).argmax()) if first else int(nearest.argmin())
        chosen.append(place)
        nearest = np.maximum(nearest, vectors @ vectors[place])
        nearest[place] = np.inf
    return np.array(chosen, dtype=np.int64)


def _margins(likely: NDArray[np.float64]) -> NDArray[np.float64]:
    best = np.sort(likely, axis=1)[:, -2:]
    return np.asarray(best[:, 1] - best[:, 0])


def _entropies(likely: NDArray[np.float64]) -> NDArray[np.float64]:
    safe = np.clip(likely, 1e-12, None)
    return np.asarray(-(safe * np.log(safe)).sum(axis=1))


Doubt = NDArray[np.float64]
"""How little is known of each row that may be asked, (open,)."""
DOUBTS: dict[str, Callable[[Round], Doubt]] = {"margin": margin, "uncertainty": uncertainty, "entropy": entropy, "committee": committee}
STRATEGIES = (*DOUBTS, "diversity", "random")
