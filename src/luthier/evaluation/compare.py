"""Two sets of answers on the same rows: who is better, by how much, and is it chance.

Enters: per-row losses and scores of A and B. Leaves: differences with paired bootstrap intervals,
a paired permutation test (exact McNemar for single labels), and the rows on which they differ.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.evaluation.intervals import Scorer, Strata, redraw


@dataclass(frozen=True)
class Comparison:
    """B against A: `differences` are B minus A as (value, low, high); `p_value` is two-sided."""

    differences: dict[str, tuple[float, float, float]]
    p_value: float
    test: str
    a_only_right: int
    b_only_right: int
    differing: list[int]
    n: int


def compare(
    scorer: Scorer,
    gold: NDArray[Any],
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    *,
    loss_a: NDArray[np.float64],
    loss_b: NDArray[np.float64],
    resamples: int = 1000,
    seed: int = 0,
    strata: Strata | None = None,
) -> Comparison:
    """Compare outputs `a` and `b`, (n, width) each, on the same `gold`."""
    draw, n = np.random.default_rng(seed), len(gold)
    differences = paired(scorer, gold, a, b, resamples=resamples, draw=draw, strata=strata)
    a_better, b_better = int((loss_a < loss_b).sum()), int((loss_b < loss_a).sum())
    binary = set(np.unique(np.concatenate([loss_a, loss_b]))) <= {0.0, 1.0}
    p = mcnemar(a_better, b_better) if binary else permutation(loss_a - loss_b, draw)
    return Comparison(
        differences,
        p,
        "exact McNemar" if binary else "paired permutation, 10,000 draws",
        a_better,
        b_better,
        [int(i) for i in np.flatnonzero(loss_a != loss_b)],
        n,
    )


def paired(
    scorer: Scorer,
    gold: NDArray[Any],
    a: NDArray[np.float64],
    b: NDArray[np.float64],
    *,
    resamples: int,
    draw: np.random.Generator,
    strata: Strata | None = None,
) -> dict[str, tuple[float, float, float]]:
    """Every score of `b` minus that of `a` on the same rows, with its paired bootstrap interval: (value, low, high)."""
    points_a, points_b = scorer(gold, a), scorer(gold, b)
    samples: dict[str, list[float]] = {name: [] for name in points_a}
    for _ in range(resamples):
        rows = redraw(len(gold), draw, strata)
        sample_a, sample_b = scorer(gold[rows], a[rows]), scorer(gold[rows], b[rows])
        for name in samples:
            samples[name].append(sample_b[name] - sample_a[name])
    found = {}
    for name, values in samples.items():
        low, high = np.percentile(values, [2.5, 97.5])
        found[name] = (points_b[name] - points_a[name], float(low), float(high))
    return found


def mcnemar(a_better: int, b_better: int) -> float:
    """Two-sided exact p-value that discordant rows fall either way alike (McNemar 1947)."""
    from scipy.stats import binomtest

    total = a_better + b_better
    return float(binomtest(a_better, total, 0.5).pvalue) if total else 1.0


def permutation(difference: NDArray[np.float64], draw: np.random.Generator, times: int = 10_000) -> float:
    """Two-sided p-value that the mean difference is as large under random signs."""
    moved = difference[difference != 0]
    if not moved.size:
        return 1.0
    observed, hits = abs(moved.sum()), 0
    for start in range(0, times, 500):
        signs = draw.integers(0, 2, (min(500, times - start), moved.size)) * 2 - 1
        hits += int((np.abs(signs @ moved) >= observed - 1e-12).sum())
    return (hits + 1) / (times + 1)
