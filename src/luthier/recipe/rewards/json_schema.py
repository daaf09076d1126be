"""Options of JSON by a schema."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.rewards.options import RewardOptions


class JsonSchemaOptions(RewardOptions):
    """1 where the completion is JSON that fits a schema, `parsed` where it is JSON that does not, else 0; without a schema 1 for JSON."""

    type: Literal["json_schema"] = "json_schema"
    file: str | None = Field(None, description="file with the JSON schema, relative to the recipe's folder")
    column: str | None = Field(None, description="column of the row that holds the schema, instead of a file")
    parsed: Annotated[float, Field(ge=0, le=1)] = Field(0.5, description="what JSON is worth that does not fit the schema")
    fence: bool = Field(True, description="read the last fenced block where the completion has one; else the whole has to be JSON")

    @property
    def columns(self) -> tuple[str, ...]:
        """The one with the schema."""
        return (self.column,) if self.column else ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Whether it is JSON, and whether it fits."""
        return ("parsed", "valid")

    @model_validator(mode="after")
    def _one_schema(self) -> JsonSchemaOptions:
        if self.file is not None and self.column is not None:
            raise ValueError("give either file or column")
        return self
