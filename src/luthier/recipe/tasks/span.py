"""Options of the span task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.tasks.options import TaskOptions


class SpanOptions(TaskOptions):
    """Where in a passage (data.text) the answer (data.label) to a question (data.text_pair) starts and ends, or that there is none."""

    type: Literal["span"] = "span"
    start: str = Field(
        "answer_start", description="column of the character at which the answer begins, where data.label holds its text alone"
    )
    group: str = Field("title", description="rows with one value here stay on one side of a split; with one passage they do in any case")
    stride: Annotated[int, Field(ge=0)] = Field(
        128, description="tokens that neighbouring windows of a long passage share; at most half of what a window holds of it"
    )
    max_answer: Annotated[int, Field(gt=0)] = Field(30, description="longest answer that is given, in tokens")
    null_threshold: Literal["auto"] | float = Field(
        "auto",
        description="no answer is given where that is so many nats likelier than the best; auto: 0, never where all of training has one",
    )
    candidates: Annotated[int, Field(gt=0, le=100)] = Field(5, description="best answers that predictions list")
