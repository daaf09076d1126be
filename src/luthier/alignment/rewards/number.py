"""The right number."""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path

from luthier.alignment.reading import extracted, last_number
from luthier.alignment.rewards.reward import Messages, Row, cell
from luthier.errors import RewardError
from luthier.recipe.rewards.number import NumberOptions


class NumberReward:
    """1 for the row's number, or one near enough."""

    def __init__(self, options: NumberOptions, *, folder: Path, where: str) -> None:
        self.options = options
        self.pattern = re.compile(options.extract) if options.extract else None

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> list[float]:
        """1 or 0 for each completion. Raises RewardError where the row holds no number."""
        gold = cell(row, self.options.column)
        right = [last_number(str(g)) for g in (gold if isinstance(gold, (list, tuple)) else [gold])]
        if None in right or not right:
            raise RewardError(
                f"there is no number in {self.options.column!r}: {str(gold)[:60]!r}", remedy="name the column with the answer"
            )
        return [float(any(g is not None and self._near(self._number(text), g) for g in right)) for text in completions]

    def _number(self, text: str) -> Decimal | None:
        answer = extracted(text, self.pattern)
        return None if answer is None else last_number(answer)

    def _near(self, found: Decimal | None, gold: Decimal) -> bool:
        if found is None or found == gold:  # exactly, however many digits they have
            return found is not None
        margin = max(self.options.tolerance, self.options.relative * abs(float(gold)))
        return margin > 0 and abs(float(found) - float(gold)) <= margin * (1 + 1e-12)  # 0.1 off counts as 0.1 off
