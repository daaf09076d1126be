"""Options of the tagging task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.tasks.options import TaskOptions


class TaggingOptions(TaskOptions):
    """A tag for each word: entities such as names, or a class a word such as its part of speech."""

    type: Literal["tagging"] = "tagging"
    kind: Literal["auto", "entities", "words"] = Field(
        "auto", description="auto: entities where rows have spans, or tags that look like B-PER and I-PER; else a class for each word"
    )
    scheme: Literal["bio", "iob1", "bilou", "iobes"] = Field(
        "bio", description="entities: the tags that the head learns, whatever scheme the files are in"
    )
    ignore: list[str] = Field(default_factory=list, description="entities: types read as no entity; else tags of words that are not graded")
    constrained: bool = Field(
        True, description="entities: answer with the likeliest tags that the scheme allows (Viterbi); else each word's own"
    )
    stride: Annotated[int, Field(ge=0)] = Field(
        64, description="tokens that neighbouring windows of a long text share; at most half of what a window holds"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="share of the target spread over all tags")
