"""Options of boilerplate."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.stages.options import TextStageOptions


class BoilerplateOptions(TextStageOptions):
    """Lines that stand in many rows (headers, disclaimers, signatures) are taken out of texts of several lines."""

    type: Literal["boilerplate"] = "boilerplate"
    share: Annotated[float, Field(gt=0, le=1)] = Field(0.01, description="a line in at least this share of the rows is boilerplate")
    min_rows: Annotated[int, Field(ge=2)] = Field(10, description="and in at least so many rows")
    min_characters: Annotated[int, Field(ge=1)] = Field(12, description="shorter lines stay")

    @property
    def sees_all(self) -> bool:
        """Rows are compared with each other."""
        return True
