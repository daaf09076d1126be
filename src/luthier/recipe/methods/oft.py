"""Options of orthogonal fine-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.methods.options import AdapterOptions


class OftOptions(AdapterOptions):
    """Weights turned by learned rotations, block by block (Qiu et al. 2023)."""

    type: Literal["oft"] = "oft"
    block_size: Annotated[int, Field(gt=1)] = Field(32, description="features that turn together; less where a width needs it")
