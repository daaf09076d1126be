"""Options of mixing starting and trained weights."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.retention.options import RetentionOptions


class SoupOptions(RetentionOptions):
    """After training, weights between the starting and the trained ones (Wortsman et al. 2022)."""

    type: Literal["soup"] = "soup"
    weight: Literal["auto"] | Annotated[float, Field(ge=0, le=1)] = Field(
        "auto", description="share of the trained weights: 0 is the start, 1 the end; auto: least loss on validation and probes together"
    )
    steps: Annotated[int, Field(gt=0)] = Field(10, description="auto: into how many steps the way from 0 to 1 is cut")
