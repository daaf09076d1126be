"""Options of synonyms from a file."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.augment.options import AugmentOptions, Rate


class LexiconOptions(AugmentOptions):
    """Words replaced by synonyms of your own."""

    type: Literal["lexicon"] = "lexicon"
    file: str = Field(description="a text file: on each line a word and its synonyms, with commas between; relative to the recipe's folder")
    rate: Rate = Field(0.2, description="share of the words that are replaced, one at least")
