"""Options of mixing."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.augment.options import AugmentOptions


class MixingOptions(AugmentOptions):
    """Two texts of the same label made one: joined, or some sentences of each."""

    type: Literal["mixing"] = "mixing"
    how: Literal["join", "sentences"] = Field(
        "join", description="one text after the other; or the first half of the one's sentences and the second half of the other's"
    )
    separator: str = Field(" ", description="what stands between them")
