"""Options of VeRA."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.methods.options import AdapterOptions


class VeraOptions(AdapterOptions):
    """Learned scales on random low-rank matrices that all layers share (Kopiczko et al. 2023)."""

    type: Literal["vera"] = "vera"
    rank: Annotated[int, Field(gt=0)] = Field(256, description="width of the shared matrices")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout before the adapters")
    scale: Annotated[float, Field(gt=0)] = Field(0.1, description="what the scales of the first matrix start at")
