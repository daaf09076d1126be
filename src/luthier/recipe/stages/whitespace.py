"""Options of white space."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.stages.options import TextStageOptions


class WhitespaceOptions(TextStageOptions):
    """Runs of spaces become one, spaces around lines and texts go."""

    type: Literal["whitespace"] = "whitespace"
    lines: Literal["keep", "join"] = Field(
        "keep", description="line breaks stay, with one empty line at most between two; or become spaces"
    )
