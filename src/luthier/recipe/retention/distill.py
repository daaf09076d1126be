"""Options of distillation from the starting model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.fields import Strings
from luthier.recipe.retention.options import RetentionOptions, Strength


class DistillOptions(RetentionOptions):
    """The model goes on answering as it did at the start (Li and Hoiem 2016)."""

    type: Literal["distill"] = "distill"
    strength: Strength = Field(1.0, description="weight of the divergence from the starting model, added to the mean loss")
    temperature: Annotated[float, Field(gt=0)] = Field(2.0, description="logits are divided by it, so that unlikely answers count too")
    on: Literal["auto", "logits", "hidden"] = Field(
        "auto", description="what stays alike: answers, or last hidden states; auto: answers, unless the head is new or of another kind"
    )
    data: Strings | None = Field(
        None, description="replay files, read as the training files are, on which it stays alike; the training batch where absent"
    )
