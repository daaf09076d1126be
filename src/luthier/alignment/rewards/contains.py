"""Words that have to be there."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from luthier.alignment.rewards.reward import Messages, Row, cell
from luthier.errors import RewardError
from luthier.recipe.rewards.contains import ContainsOptions


class ContainsReward:
    """The share of the words that are."""

    def __init__(self, options: ContainsOptions, *, folder: Path, where: str) -> None:
        self.options = options
        self.flags = re.NOFLAG if options.case else re.IGNORECASE

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> list[float]:
        """A share for each completion. Raises RewardError where the row names no words."""
        words = self.options.words if self.options.column is None else cell(row, self.options.column)
        words = [str(w) for w in words] if isinstance(words, (list, tuple)) else [str(words)]
        if not words or not all(w.strip() for w in words):
            raise RewardError(f"no words in {self.options.column!r}", remedy="the column holds a word, or a list of them")
        patterns = [re.compile(r"(?<!\w)" + r"\s+".join(map(re.escape, w.split())) + r"(?!\w)", self.flags) for w in words]
        return [sum(p.search(text) is not None for p in patterns) / len(patterns) for text in completions]
