"""What the options of every task share."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict


class TaskOptions(BaseModel):
    """The `task:` section of a recipe; each task subclasses it with its own fields."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    type: str
