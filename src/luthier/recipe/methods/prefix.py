"""Options of prefix tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.methods.options import VirtualOptions


class PrefixOptions(VirtualOptions):
    """Learned keys and values before each text, in every layer (Li and Liang 2021)."""

    type: Literal["prefix"] = "prefix"
    projection: bool = Field(False, description="write them by a small network, as in the paper")
    hidden_size: Annotated[int, Field(gt=0)] = Field(128, description="width of that network")
