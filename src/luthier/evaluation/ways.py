"""Ways against forgetting side by side: what each gained of the new, and lost of the old.

Enters: for each way the figures of its runs, one a seed. Leaves: points with intervals, and the way that we would choose.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NAIVE, JOINT = "none", "joint"
"""The training without any protection, and that on all rows at once, which has nothing to forget."""
CLOSE = 0.005
"""Ways whose worth differs by less are alike, and the quicker one is better."""
INTERVAL = 0.95


@dataclass(frozen=True)
class Figures:
    """One run: the gain on what is new, the loss of what is old (as it is scored), the final mean, and seconds of training."""

    gain: float
    loss: float
    seconds: float
    average: float | None = None
    stages: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Mean:
    """The mean over seeds with the 95% interval of Student's t; of a single seed without one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Advice:
    """The way we would choose, and why."""

    way: str
    why: str


def mean(values: Sequence[float]) -> Mean:
    """Of values that are each a run's."""
    from scipy.stats import t

    n = len(values)
    middle = sum(values) / n
    if n == 1:
        return Mean(middle, None, None)
    deviation = math.sqrt(sum((v - middle) ** 2 for v in values) / (n - 1))
    away = float(t.ppf((1 + INTERVAL) / 2, n - 1)) * deviation / math.sqrt(n)
    return Mean(middle, middle - away, middle + away)


def summary(runs: Sequence[Figures]) -> dict[str, Any]:
    """What the runs of one way amount to."""
    names = [n for n in ("gain", "loss", "seconds", "average") if getattr(runs[0], n) is not None]
    found: dict[str, Any] = {name: vars(mean([getattr(r, name) for r in runs])) for name in names}
    stages = [r.stages for r in runs if r.stages]
    if stages:
        order = found["stages"] = stages[0]["stages"]
        found["scores"] = {n: [mean([s["scores"][n][i] for s in stages]).value for i in range(len(order))] for n in order}
    for key in ("backward_transfer", "forward_transfer"):
        if stages and all(key in s for s in stages):
            found[key] = vars(mean([s[key] for s in stages]))
    return found


def advise(ways: Mapping[str, Sequence[Figures]]) -> Advice:
    """The way with the greatest worth: its gain, less its loss at the rate at which training without protection trades them.

    In a sequence of tasks gain and loss are scores of the same kind, and the worth is the final mean over all tasks. Where the
    old is measured otherwise than the new (nats of a text against an accuracy), a loss as large as the unprotected one costs as much
    as the unprotected gain brings. Of ways that are alike the quicker is chosen.
    """
    naive = ways[NAIVE]
    lost, gained = mean([r.loss for r in naive]).value, mean([r.gain for r in naive]).value
    alike = naive[0].average is not None
    rate = 1.0 if alike or lost <= 0 else max(gained, 0.0) / lost

    def worth(runs: Sequence[Figures]) -> float:
        return mean([r.average if r.average is not None else r.gain - rate * r.loss for r in runs]).value

    if lost <= CLOSE and alike:
        return Advice(NAIVE, f"training without protection loses only {lost:.3f}: there is little to protect")
    chosen = {name: runs for name, runs in ways.items() if name != JOINT}
    best = max(worth(runs) for runs in chosen.values())
    close = [name for name, runs in chosen.items() if worth(runs) >= best - CLOSE]
    way = min(close, key=lambda name: mean([r.seconds for r in chosen[name]]).value)
    kept = mean([r.loss for r in chosen[way]]).value
    if way == NAIVE:
        return Advice(way, "no way of protection brings more than it costs")
    words = f"it loses {kept:.3f} of the old where training without protection loses {lost:.3f}"
    if alike:
        words = f"the best final mean over all tasks, {worth(chosen[way]):.3f}; {words}"
        if JOINT in ways:
            words += f"; training on all at once reaches {worth(ways[JOINT]):.3f}"
    others = [n for n in close if n != way]
    return Advice(way, words + (f"; {' and '.join(others)} did as well, and took longer" if others else ""))
