"""Options of AdaLoRA."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.methods.options import AdapterOptions


class AdaLoraOptions(AdapterOptions):
    """Low-rank adapters whose ranks shrink where they matter least (Zhang et al. 2023)."""

    type: Literal["adalora"] = "adalora"
    initial_rank: Annotated[int, Field(gt=0)] = Field(12, description="rank at the start")
    rank: Annotated[int, Field(gt=0)] = Field(8, description="mean rank at the end")
    alpha: Annotated[float, Field(gt=0)] = Field(32, description="scale of the adapters")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout before the adapters")
    warmup: Annotated[float, Field(ge=0, lt=1)] = Field(0.1, description="share of the updates before ranks shrink")
    settle: Annotated[float, Field(ge=0, lt=1)] = Field(0.3, description="share of the updates at the end with ranks fixed")
    every: Annotated[int, Field(gt=0)] = Field(1, description="updates between two looks at the ranks")
    orthogonality: Annotated[float, Field(ge=0)] = Field(0.5, description="weight of the penalty that keeps the directions orthogonal")

    @model_validator(mode="after")
    def _shrinking(self) -> AdaLoraOptions:
        if self.rank > self.initial_rank:
            raise ValueError("rank is at most initial_rank: ranks only shrink")
        if self.warmup + self.settle >= 1:
            raise ValueError("warmup and settle leave no updates for the ranks to shrink")
        return self
