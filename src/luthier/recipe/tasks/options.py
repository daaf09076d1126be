"""What the options of every task share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field


class TaskOptions(BaseModel):
    """The `task:` section of a recipe; each task subclasses it with its own fields."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    type: str


class LanguageOptions(TaskOptions):
    """What the tasks that predict tokens share."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the target spread over the vocabulary")
    z_loss: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of the squared log of the partition, which keeps logits small")


class WritingOptions(LanguageOptions):
    """What the tasks whose models write share."""

    max_new_tokens: Annotated[int, Field(gt=0)] = Field(128, description="longest answer in tokens, in evaluation and by default")
