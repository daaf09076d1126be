"""Options of noise."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.augment.options import AugmentOptions, Rate


class NoiseOptions(AugmentOptions):
    """Typing errors: letters swapped, left out, doubled or replaced by others of the training texts."""

    type: Literal["noise"] = "noise"
    rate: Rate = Field(0.05, description="share of the letters that are changed, one at least")
    kinds: Annotated[list[Literal["swap", "delete", "double", "replace"]], Field(min_length=1)] = Field(
        default_factory=lambda: ["swap", "delete", "double", "replace"], description="what may happen to a letter"
    )
