"""Options of back-translation."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.recipe.augment.options import AugmentOptions


class BackTranslationOptions(AugmentOptions):
    """Texts translated into another language and back, by two runs of the task text2text."""

    needs_model: ClassVar[bool] = True
    type: Literal["back_translation"] = "back_translation"
    there: str = Field(description="the run that translates into the other language")
    back: str = Field(description="the run that translates back")
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(0.7, description="on the way back; 0 always takes the likeliest word")
    max_tokens: Annotated[int, Field(gt=0)] = Field(128, description="longest translation in tokens")
