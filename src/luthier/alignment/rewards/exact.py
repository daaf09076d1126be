"""The exact answer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from luthier.alignment.reading import extracted, normalized
from luthier.alignment.rewards.reward import Messages, Row, cell
from luthier.recipe.rewards.exact import ExactOptions


class ExactReward:
    """1 for the row's answer, or one of them."""

    def __init__(self, options: ExactOptions, *, folder: Path, where: str) -> None:
        self.options = options
        self.pattern = re.compile(options.extract) if options.extract else None

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> list[float]:
        """1 or 0 for each completion."""
        gold = cell(row, self.options.column)
        right = {normalized(str(g), self.options.normalize) for g in (gold if isinstance(gold, (list, tuple)) else [gold])}
        found = [extracted(text, self.pattern) for text in completions]
        return [float(answer is not None and normalized(answer, self.options.normalize) in right) for answer in found]
