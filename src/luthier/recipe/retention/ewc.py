"""Options of elastic weight consolidation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.fields import Strings
from luthier.recipe.retention.options import RetentionOptions, Strength


class EWCOptions(RetentionOptions):
    """Weights are drawn to where they started, each as strongly as earlier rows depend on it (Kirkpatrick et al. 2017)."""

    type: Literal["ewc"] = "ewc"
    data: Strings = Field(
        default_factory=list, description="files of the earlier task, read as the training files are; a curriculum of stages needs none"
    )
    strength: Strength = Field(1e5, description="weight of the penalty: lambda of the paper")
    rows: Annotated[int, Field(gt=0)] = Field(200, description="earlier rows that are looked at, drawn with the seed")
    decay: Annotated[float, Field(ge=0, le=1)] = Field(
        1.0, description="what is left of the importance of all earlier rows when weights are consolidated again: gamma of online EWC"
    )
