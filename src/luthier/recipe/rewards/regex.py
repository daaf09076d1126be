"""Options of a regular expression."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.rewards.options import Expression, RewardOptions


class RegexOptions(RewardOptions):
    """Whether, or how often, a regular expression matches the completion."""

    type: Literal["regex"] = "regex"
    pattern: Expression = Field(description="the regular expression")
    how: Literal["search", "full", "count"] = Field(
        "search", description="search: 1 where it matches somewhere; full: where it matches the whole; count: how often it matches"
    )
    most: Annotated[int, Field(gt=0)] | None = Field(None, description="count: matches beyond this number add nothing")
    flags: list[Literal["ignorecase", "multiline", "dotall"]] = Field(default=[], description="how the pattern is read")

    @model_validator(mode="after")
    def _most_is_read(self) -> RegexOptions:
        if self.most is not None and self.how != "count":
            raise ValueError("most is for how: count")
        return self
