"""What the options of every way to protect old skills share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Strength = Annotated[float, Field(ge=0)]


class RetentionOptions(BaseModel):
    """The `retention:` section of a recipe; each way subclasses it with its own fields."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    type: str
