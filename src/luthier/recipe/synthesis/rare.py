"""Options of more rows of rare classes."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.synthesis.options import Count, SynthesisOptions


class RareOptions(SynthesisOptions):
    """More rows of classes that have few."""

    type: Literal["rare"] = "rare"
    text: str = Field("text", description="column of the text")
    label: str = Field("label", description="column of the label")
    classes: list[str] | None = Field(None, description="labels that get more rows, in turn; the rarest one where absent")
    examples: Count = Field(5, description="rows of the class that each request shows")
    per_request: Annotated[int, Field(gt=0, le=50)] = Field(5, description="rows that one request asks for")
    classifier: str | None = Field(None, description="a classification run that must give a row its label, or the row is left out")
