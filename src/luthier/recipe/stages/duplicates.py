"""Options of exact and near duplicates."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.stages.options import JudgingOptions


class RepeatOptions(JudgingOptions):
    """What the two stages share that drop rows which repeat others."""

    across: bool = Field(True, description="rows of all files are compared; or each file's with its own alone")

    @property
    def sees_all(self) -> bool:
        """Rows are compared with each other."""
        return True


class DuplicatesOptions(RepeatOptions):
    """Rows with the same texts as an earlier one are dropped."""

    type: Literal["duplicates"] = "duplicates"
    fold: bool = Field(True, description="case, width and white space make no difference")
    keep: Literal["first", "last"] = Field("first", description="which of the rows stays")


class NearDuplicatesOptions(RepeatOptions):
    """Rows that are nearly an earlier row are dropped: the same words but for a few, or the same text cut off."""

    type: Literal["near_duplicates"] = "near_duplicates"
    threshold: Annotated[float, Field(ge=0.5, le=1)] = Field(
        0.8, description="words (or runs of them) in both, over words in either: the least that makes two rows near duplicates"
    )
    shingle: Annotated[int, Field(ge=1, le=13)] = Field(1, description="words that are compared together; above 1 their order counts")
    min_words: Annotated[int, Field(ge=1)] = Field(8, description="shorter texts are not compared: one word changes what they say")
