"""What becomes of training rows whose label is probably wrong."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Mend(BaseModel):
    """`data.mend`: label errors of the training part, as `luthier data quality` finds them; validation and test stay as they are."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    type: Literal["drop", "relabel"] = Field(description="leave the rows out, or give them the label that is likelier right")
    at_least: Annotated[float, Field(ge=0.5, lt=1)] = Field(
        0.9, description="how likely wrong a label must be; the lower, the more rows go that are only hard"
    )
    model: str = Field("minilm", description="whose vectors are used: an alias, a folder, a run, a hub id")

    @model_validator(mode="before")
    @classmethod
    def _named(cls, value: Any) -> Any:
        return {"type": value} if isinstance(value, str) else value
