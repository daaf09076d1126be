"""What the options of every way to make further training rows share."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import BaseModel, ConfigDict, Field

Rate = Annotated[float, Field(gt=0, le=1)]


class AugmentOptions(BaseModel):
    """One of `data.augment`; each way subclasses it with its own fields."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    needs_model: ClassVar[bool] = False
    """Whether a model makes the texts."""
    type: str
    share: Annotated[float, Field(gt=0, le=100)] = Field(
        1.0, description="rows to be made for each training row; 0.5: for every second one"
    )
    classes: list[str] | None = Field(None, description="labels whose rows are varied; all where absent")
    check: str | None = Field(
        None, description="a classification run that must give a made text the label of its row, or the text is left out"
    )
