"""Options of the few-shot task."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.recipe.fields import Prompt
from luthier.recipe.tasks.options import TaskOptions


class FewShotOptions(TaskOptions):
    """One label for each text, learned from 4 to 64 examples a class: texts of a class are drawn together, then a head is fitted."""

    type: Literal["few_shot"] = "few_shot"
    labels: list[str] | None = Field(None, description="the labels in order; found in the training rows where absent")
    shots: Annotated[int, Field(gt=0)] | None = Field(
        None, description="rows a class that are trained on, drawn with the seed; all where absent"
    )
    prompt: Prompt | None = Field(None, description="instruction put around the text: {text} and other columns by name")
    pooling: Literal["auto", "own", "mean", "first", "last"] = Field(
        "auto",
        description="which hidden states the head reads; own: where the architecture's own head looks, so that plain transformers loads "
        "the model; auto: for encoders as the model's 1_Pooling says, else mean; for others own",
    )
    temperature: Annotated[float, Field(gt=0)] = Field(0.05, description="cosines are divided by it in the contrast of the classes")
    strength: Annotated[float, Field(gt=0)] = Field(
        100.0, description="how closely the head follows the rows: the inverse of its penalty, C of a logistic regression"
    )

    kind: ClassVar[str] = "auto"
    class_weights: ClassVar[str] = "none"
    label_smoothing: ClassVar[float] = 0.0
    threshold: ClassVar[float] = 0.5
    """What classification asks of its options, and these leave as it is."""
