"""Options of p-tuning."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.methods.options import VirtualOptions


class PTuningOptions(VirtualOptions):
    """Embeddings before each text, written by a small network (Liu et al. 2021)."""

    type: Literal["p-tuning"] = "p-tuning"
    network: Literal["mlp", "lstm"] = Field("mlp", description="the small network")
    hidden_size: Annotated[int, Field(gt=0)] = Field(128, description="its width")
