"""Options of moving words."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from luthier.recipe.augment.options import AugmentOptions, Rate

Kind = Literal["swap", "delete", "insert"]


class WordsOptions(AugmentOptions):
    """Words swapped, left out, or inserted: a word of another text of the same label."""

    type: Literal["words"] = "words"
    rate: Rate = Field(0.1, description="share of the words that are changed, one at least")
    kinds: Annotated[list[Kind], Field(min_length=1)] = Field(
        default_factory=lambda: list(get_args(Kind)), description="what may happen to a word"
    )
