"""A function of the user's own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from luthier.alignment.rewards.reward import Messages, Row, Scores
from luthier.errors import RewardError
from luthier.recipe.rewards.function import FunctionOptions
from luthier.registry import load_callable


class FunctionReward:
    """What it says."""

    def __init__(self, options: FunctionOptions, *, folder: Path, where: str) -> None:
        """Raises LuthierError where it cannot be imported, RewardError where it cannot be called."""
        self.function = load_callable(options.function, where=f"{where}.function")
        if not callable(self.function):
            raise RewardError(f"{options.function} cannot be called", where=f"{where}.function", remedy="name a function")

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> Scores:
        """Its scores; it gets copies, so that it can change nothing."""
        scores: Scores = self.function(*copy.deepcopy(([dict(m) for m in prompt], list(completions), dict(row))))
        return scores
