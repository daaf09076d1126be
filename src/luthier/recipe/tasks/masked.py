"""Options of the masked language-model task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.tasks.options import LanguageOptions


class MaskedOptions(LanguageOptions):
    """Learn to fill in masked words: domain adaptation of encoders."""

    type: Literal["masked"] = "masked"
    mask_share: Annotated[float, Field(gt=0, lt=1)] = Field(0.15, description="share of the tokens that are masked, anew each time")
    whole_word: bool = Field(False, description="mask all the tokens of a word together")
