"""The length."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from luthier.alignment.rewards.reward import Messages, Row
from luthier.recipe.rewards.length import LengthOptions


class LengthReward:
    """How near the length is to what is wanted; where nothing is, how long the completion is."""

    def __init__(self, options: LengthOptions, *, folder: Path, where: str) -> None:
        self.options = options
        wanted = options.target is not None or options.at_least is not None or options.at_most is not None
        self.low = (options.at_least or 0) if options.target is None else options.target
        self.high = options.at_most if options.target is None else options.target
        self.wanted = wanted

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> list[float]:
        """A number for each completion: at most 1 where a length is wanted, and not below 0."""
        return [self._score(len(text.split()) if self.options.unit == "words" else len(text)) for text in completions]

    def _score(self, length: int) -> float:
        if not self.wanted:
            return length / self.options.per
        off = max(self.low - length, length - self.high if self.high is not None else 0, 0)
        return max(0.0, 1 - off / self.options.per)
