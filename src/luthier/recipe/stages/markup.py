"""Options of markup."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.stages.options import TextStageOptions


class MarkupOptions(TextStageOptions):
    """HTML taken out of texts: known tags go, blocks become lines, scripts and styles go with what is in them."""

    type: Literal["markup"] = "markup"
    entities: bool = Field(True, description="write &amp; and the like as the characters they mean")
    tags: Literal["remove", "keep"] = Field("remove", description="take tags and comments out, or leave them")
