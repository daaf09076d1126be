"""Options of the classification task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.fields import Prompt
from luthier.recipe.tasks.options import TaskOptions


class ClassificationOptions(TaskOptions):
    """One label, several labels, or a number for each text or pair of texts."""

    type: Literal["classification"] = "classification"
    kind: Literal["auto", "single_label", "multi_label", "regression"] = Field(
        "auto", description="auto: several labels where data.label_separator or a list of columns says so, else one"
    )
    labels: list[str] | None = Field(None, description="the labels in order; found in the training rows where absent")
    class_weights: Literal["none", "balanced"] | dict[str, Annotated[float, Field(gt=0)]] = Field(
        "none", description="balanced weighs each class by the inverse of its count; or a weight a label"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the target spread over all labels")
    prompt: Prompt | None = Field(None, description="instruction put around the text: {text} and other columns by name")
    threshold: Annotated[float, Field(gt=0, lt=1)] = Field(0.5, description="multi-label: probability from which a label counts")

    @model_validator(mode="after")
    def _fitting(self) -> ClassificationOptions:
        if self.kind == "regression" and (self.labels or self.class_weights != "none" or self.label_smoothing):
            raise ValueError("regression takes no labels, class_weights or label_smoothing")
        return self
