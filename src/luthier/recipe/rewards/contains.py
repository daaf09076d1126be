"""Options of words that have to be there."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from luthier.recipe.fields import Strings
from luthier.recipe.rewards.options import RewardOptions


class ContainsOptions(RewardOptions):
    """The share of some words or phrases that stand in the completion; with a weight below 0, words to avoid."""

    type: Literal["contains"] = "contains"
    words: Strings = Field(default=[], description="the words or phrases, the same for all rows")
    column: str | None = Field(None, description="column of the row that holds them, instead of words")
    case: bool = Field(False, description="upper and lower case are told apart")

    @property
    def columns(self) -> tuple[str, ...]:
        """The one with the words."""
        return (self.column,) if self.column else ()

    @model_validator(mode="after")
    def _one_place(self) -> ContainsOptions:
        if bool(self.words) == (self.column is not None):
            raise ValueError("give either words or the column that holds them")
        if not all(w.strip() for w in self.words):
            raise ValueError("words has an empty one")
        return self
