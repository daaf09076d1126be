"""Options of missing values."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from luthier.recipe.stages.options import Columns, StageOptions


class MissingOptions(StageOptions):
    """Cells with nothing in them: their rows are dropped, they are filled, or flagged in a column of their own."""

    type: Literal["missing"] = "missing"
    columns: Columns | None = Field(None, description="columns it looks at; all where absent")
    how: Literal["drop", "fill", "flag"] = Field(
        "drop", description="drop the row; fill the cell with `value`; or add a column NAME_missing, true or false"
    )
    when: Literal["any", "all"] = Field("any", description="drop a row where any of the columns is missing, or only where all are")
    value: str | int | float | None = Field(None, description="what a missing cell is filled with")
    markers: list[str] = Field(
        default_factory=lambda: ["", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None"],
        description="texts that mean nothing is there, spaces around them aside",
    )

    @model_validator(mode="after")
    def _a_value_to_fill(self) -> MissingOptions:
        if (self.how == "fill") != (self.value is not None):
            raise ValueError("how: fill and value go together")
        return self
