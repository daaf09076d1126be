"""A regular expression."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from luthier.alignment.rewards.reward import Messages, Row
from luthier.recipe.rewards.regex import RegexOptions


class RegexReward:
    """Whether, or how often, it matches."""

    def __init__(self, options: RegexOptions, *, folder: Path, where: str) -> None:
        self.options = options
        flags = re.NOFLAG
        for name in options.flags:
            flags |= re.RegexFlag[name.upper()]
        self.pattern = re.compile(options.pattern, flags)

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> list[float]:
        """1 or 0, or the number of matches, for each completion."""
        return [self._score(text) for text in completions]

    def _score(self, text: str) -> float:
        if self.options.how == "count":
            count = sum(1 for _ in self.pattern.finditer(text))
            return float(count if self.options.most is None else min(count, self.options.most))
        match = self.pattern.fullmatch(text) if self.options.how == "full" else self.pattern.search(text)
        return float(match is not None)
