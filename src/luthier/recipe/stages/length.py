"""Options of lengths."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.stages.options import JudgingOptions

Count = Annotated[int, Field(ge=0)]


class LengthOptions(JudgingOptions):
    """Rows whose text is too short or too long, or of a length unlike the others', are dropped."""

    type: Literal["length"] = "length"
    unit: Literal["words", "characters"] = Field("words", description="what is counted; words are what stands between spaces")
    at_least: Count | None = Field(None, description="the shortest length that stays")
    at_most: Count | None = Field(None, description="the longest length that stays")
    outliers: Annotated[float, Field(gt=0)] | None = Field(
        None,
        description="drop lengths whose logarithm is more than so many robust deviations from the median; 4 is far",
    )

    @property
    def sees_all(self) -> bool:
        """Only where lengths are compared with each other."""
        return self.outliers is not None

    @model_validator(mode="after")
    def _some_bound(self) -> LengthOptions:
        if self.at_least is None and self.at_most is None and self.outliers is None:
            raise ValueError("give at_least, at_most or outliers")
        if self.at_least is not None and self.at_most is not None and self.at_least > self.at_most:
            raise ValueError("at_least is more than at_most")
        return self
