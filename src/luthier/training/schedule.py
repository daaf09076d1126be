"""Courses of the learning rate: functions of the step, and one that follows the validation loss.

Enters: the peak rate and the number of updates. Leaves: the rate of each update. All start with the
same linear warmup; only `plateau` has state.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_right
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.recipe.sections import Training


class Schedule:
    """Rate at update `step` (0-based) of `total`.

    linear: to zero. cosine: half a cosine to zero. constant: no fall. one_cycle (Smith 2018): a rise
    from a 25th of the peak over three tenths, then a cosine fall to a 10,000th of that, in place of
    warmup. plateau: constant, times `plateau_factor` after `plateau_patience` evaluations without
    improvement of the validation loss.
    """

    def __init__(self, options: Training, *, learning_rate: float, total: int, stages: Sequence[int] = ()) -> None:
        """`stages` are the updates of each stage, where each has a course of its own."""
        self._options, self._peak = options, learning_rate
        self._ends = list(itertools.accumulate(stages)) or [total]
        self._best, self._bad, self._factor = math.inf, 0, 1.0

    def rate(self, step: int) -> float:
        """The learning rate of an update."""
        stage = min(bisect_right(self._ends, step), len(self._ends) - 1)
        begin = self._ends[stage - 1] if stage else 0
        name, total, step = self._options.schedule, max(1, self._ends[stage] - begin), step - begin
        if name == "one_cycle":
            return self._peak * self._one_cycle(step / max(1, total - 1))
        warm = math.ceil(self._options.warmup * total)
        if step < warm:
            return self._peak * (step + 1) / warm
        share = min(1.0, (step - warm) / max(1, total - warm))
        course = {
            "linear": 1.0 - share,
            "cosine": 0.5 * (1 + math.cos(math.pi * share)),
            "constant": 1.0,
            "plateau": self._factor,
        }[name]
        return self._peak * course

    @staticmethod
    def _one_cycle(share: float) -> float:
        low, end, top = 1 / 25, 1 / 25e4, 0.3
        if share < top:
            return low + (1 - low) * (1 - math.cos(math.pi * share / top)) / 2
        return end + (1 - end) * (1 + math.cos(math.pi * min(1.0, (share - top) / (1 - top)))) / 2

    def observe(self, validation_loss: float) -> bool:
        """Tell the schedule of an evaluation; True when it lowers the rate from now on."""
        if self._options.schedule != "plateau":
            return False
        if validation_loss < self._best * (1 - 1e-4):
            self._best, self._bad = validation_loss, 0
            return False
        self._bad += 1
        if self._bad < self._options.plateau_patience:
            return False
        self._bad, self._factor = 0, self._factor * self._options.plateau_factor
        return True

    def state_dict(self) -> dict[str, Any]:
        return {"best": self._best if math.isfinite(self._best) else None, "bad": self._bad, "factor": self._factor}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._best = math.inf if state["best"] is None else state["best"]
        self._bad, self._factor = state["bad"], state["factor"]
