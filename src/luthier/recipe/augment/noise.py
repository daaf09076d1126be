"""Options of noise."""

from __future__ import annotations

from typing import Annotated, Literal, get_args

from pydantic import Field

from luthier.recipe.augment.options import AugmentOptions, Rate

Kind = Literal["swap", "delete", "double", "replace"]


class NoiseOptions(AugmentOptions):
    """Typing errors: letters swapped, left out, doubled or replaced by others of the training texts."""

    type: Literal["noise"] = "noise"
    rate: Rate = Field(0.05, description="share of the letters that are changed, one at least")
    kinds: Annotated[list[Kind], Field(min_length=1)] = Field(
        default_factory=lambda: list(get_args(Kind)), description="what may happen to a letter"
    )
