"""Options of the right number."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.rewards.options import AnswerOptions

Margin = Annotated[float, Field(ge=0, allow_inf_nan=False)]


class NumberOptions(AnswerOptions):
    """1 where the completion's last number is the last one of the row's answer (in `#### 18` style behind the marks); else 0."""

    type: Literal["number"] = "number"
    tolerance: Margin = Field(0.0, description="by how much it may be off")
    relative: Margin = Field(0.0, description="by what share of the right number it may be off")
