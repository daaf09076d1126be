"""Options of the penalty on leaving the starting point."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.retention.options import RetentionOptions, Strength


class L2SPOptions(RetentionOptions):
    """Weights are drawn to where they started (Li et al. 2018)."""

    type: Literal["l2sp"] = "l2sp"
    strength: Strength = Field(0.1, description="weight of half the squared distance from the starting weights, added to the mean loss")
    head_strength: Strength = Field(0.01, description="the same for weights that started at random, such as a head: their distance from 0")
