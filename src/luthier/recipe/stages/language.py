"""Options of the language filter."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.stages.options import Columns, JudgingOptions


class LanguageOptions(JudgingOptions):
    """Rows in other languages are dropped."""

    type: Literal["language"] = "language"
    keep: Columns = Field(description="languages that stay, by their two letters: en, de")
    min_probability: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="drop a row only where another language is at least so likely"
    )
    min_characters: Annotated[int, Field(ge=0)] = Field(20, description="shorter texts stay: their language cannot be told")
