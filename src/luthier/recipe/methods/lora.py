"""Options of low-rank adapters, on a base in full precision or a quantised one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.methods.options import AdapterOptions


class LoraOptions(AdapterOptions):
    """Low-rank adapters: two thin matrices beside each layer (Hu et al. 2021)."""

    type: Literal["lora", "qlora"] = "lora"
    rank: Annotated[int, Field(gt=0)] = Field(16, description="width of the thin matrices")
    alpha: Annotated[float, Field(gt=0)] | None = Field(None, description="scaled by alpha / rank; twice the rank where absent")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.0, description="dropout before the adapters")
    rslora: bool = Field(False, description="scale by alpha / sqrt(rank) instead (Kalajdzievski 2023)")
    dora: bool = Field(False, description="learn each weight's magnitude apart from its direction (Liu et al. 2024)")
    init: Literal["default", "gaussian", "pissa", "olora", "orthogonal"] = Field(
        "default", description="how the adapters start: pissa and olora from the weights' own main directions"
    )
    plus_ratio: Annotated[float, Field(ge=1)] = Field(
        1.0, description="LoRA+: the second matrix learns so many times as fast (Hayou et al. 2024)"
    )
    ranks: dict[str, Annotated[int, Field(gt=0)]] = Field(default_factory=dict, description="other ranks, by pattern of the module's name")

    @model_validator(mode="after")
    def _whole_start(self) -> LoraOptions:
        if self.dora and self.init in ("pissa", "olora"):
            raise ValueError(f"init {self.init} does not go with dora: both take hold of the base weights")
        return self


class QLoraOptions(LoraOptions):
    """Low-rank adapters over a base in 4 bits (Dettmers et al. 2023): lora with model.quantization: 4bit."""

    type: Literal["qlora"] = "qlora"

    @model_validator(mode="after")
    def _fitting(self) -> QLoraOptions:
        if self.init in ("pissa", "olora"):
            raise ValueError(f"init {self.init} changes the base, which is quantised")
        return self
