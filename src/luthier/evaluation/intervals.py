"""Scores with their uncertainty: percentile bootstrap over rows.

Enters: gold targets, outputs and the task's score function. Leaves: each score with n and a 95%
interval (Efron and Tibshirani 1993, ch. 13).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

Scorer = Callable[[NDArray[Any], NDArray[np.float64]], dict[str, float]]
MAX_WORK = 40_000_000
"""Outputs resampled at most; larger test parts get fewer resamples, never under 200."""


class Score(TypedDict):
    """A figure, its 95% bootstrap interval, and the rows it rests on."""

    value: float
    low: float
    high: float
    n: int


Strata = tuple[NDArray[np.int64], Mapping[str, int]]
"""For each row the number of its kind, and how many rows the scores NAME.* rest on, by name."""


def redraw(n: int, draw: np.random.Generator, strata: Strata | None) -> NDArray[np.int64]:
    """As many rows, drawn with replacement; of each kind as many as there are, where there are kinds."""
    if strata is None:
        return draw.integers(0, n, n)
    kinds = strata[0]
    chosen = [own[draw.integers(0, len(own), len(own))] for kind in np.unique(kinds) for own in [np.flatnonzero(kinds == kind)]]
    return np.concatenate(chosen)


def with_intervals(
    scorer: Scorer, gold: NDArray[Any], outputs: NDArray[np.float64], *, resamples: int, seed: int = 0, strata: Strata | None = None
) -> dict[str, Score]:
    """Every score of `scorer` on all rows, with its interval."""
    n = len(gold)
    points = scorer(gold, outputs)
    draw = np.random.default_rng(seed)
    times = int(np.clip(MAX_WORK // max(1, outputs.size), 200, resamples)) if resamples > 200 else resamples
    samples: dict[str, list[float]] = {name: [] for name in points}
    for _ in range(times):
        rows = redraw(n, draw, strata)
        for name, value in scorer(gold[rows], outputs[rows]).items():
            samples[name].append(value)
    sizes = strata[1] if strata else {}
    return {name: _score(value, samples[name], sizes.get(name.partition(".")[0], n)) for name, value in points.items()}


def _score(value: float, samples: list[float], n: int) -> Score:
    low, high = np.percentile(samples, [2.5, 97.5])
    return Score(value=float(value), low=float(low), high=float(high), n=n)
