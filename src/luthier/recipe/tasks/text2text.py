"""Options of the text-to-text task."""

from __future__ import annotations

import string
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, field_validator

from luthier.recipe.tasks.options import WritingOptions


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


class Text2TextOptions(WritingOptions):
    """Learn to answer a text with a text: translation, summarisation, question answering."""

    type: Literal["text2text"] = "text2text"
    prompt: str = Field("{text}", description="what is put around the source: {text} and other columns by name")
    separator: str = Field("\n", description="decoders only: what stands between the source and the target")
    beams: int = Field(1, gt=0, description="beams in evaluation; 1 is greedy decoding")
    max_target: Annotated[int, Field(gt=1)] | None = Field(None, description="longest target in tokens; half of the context where absent")
    scorers: Annotated[list[str], BeforeValidator(_as_list)] = Field(
        default_factory=list, description="your own scores: module:callable of (prediction, reference) giving a number"
    )

    @field_validator("prompt")
    @classmethod
    def _readable(cls, value: str) -> str:
        try:
            parts = [(n, spec, conversion) for _, n, spec, conversion in string.Formatter().parse(value) if n is not None]
        except ValueError as error:
            raise ValueError(f"not a template: {error}") from None
        if "text" not in [n for n, _, _ in parts]:
            raise ValueError("needs {text}, the place where the source goes")
        if any(not n.isidentifier() or spec or conversion for n, spec, conversion in parts):
            raise ValueError("takes plain column names in braces; write {{ and }} for braces themselves")
        return value
