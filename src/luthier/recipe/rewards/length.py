"""Options of the length."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.rewards.options import RewardOptions

Count = Annotated[int, Field(ge=0)]


class LengthOptions(RewardOptions):
    """The completion's length: how near it is to what is wanted, or, where nothing is, itself."""

    type: Literal["length"] = "length"
    unit: Literal["words", "characters"] = Field("words", description="what is counted; words are what stands between spaces")
    target: Count | None = Field(None, description="the length that gives 1")
    at_least: Count | None = Field(None, description="the shortest length that gives 1")
    at_most: Count | None = Field(None, description="the longest length that gives 1")
    per: Annotated[float, Field(gt=0, allow_inf_nan=False)] = Field(
        100.0, description="so far from the wanted length the score has fallen from 1 to 0; where none is wanted, the length that gives 1"
    )

    @model_validator(mode="after")
    def _in_order(self) -> LengthOptions:
        if self.target is not None and (self.at_least is not None or self.at_most is not None):
            raise ValueError("give either target, or at_least and at_most")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is more than at_most")
        return self
