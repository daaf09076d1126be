"""Options of the text-to-text task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.fields import Prompt, Strings
from luthier.recipe.tasks.options import WritingOptions


class Text2TextOptions(WritingOptions):
    """Learn to answer a text with a text: translation, summarisation, question answering."""

    type: Literal["text2text"] = "text2text"
    prompt: Prompt = Field("{text}", description="what is put around the source: {text} and other columns by name")
    separator: str = Field("\n", description="decoders only: what stands between the source and the target")
    beams: int = Field(1, gt=0, description="beams in evaluation; 1 is greedy decoding")
    max_target: Annotated[int, Field(gt=1)] | None = Field(None, description="longest target in tokens; half of the context where absent")
    scorers: Strings = Field(
        default_factory=list, description="your own scores: module:callable of (prediction, reference) giving a number"
    )
