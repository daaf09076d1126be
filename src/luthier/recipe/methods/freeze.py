"""Options of layer freezing."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from luthier.recipe.fields import Strings, regular_expressions
from luthier.recipe.methods.options import MethodOptions


class FreezeOptions(MethodOptions):
    """Some of the weights stay as they are: the bottom half of the layers where nothing else is said."""

    type: Literal["freeze"] = "freeze"
    layers: Annotated[int, Field(ge=0)] | None = Field(None, description="freeze the embeddings and so many bottom layers")
    all_but_last: Annotated[int, Field(ge=0)] | None = Field(None, description="freeze all layers but so many at the top")
    embeddings: bool = Field(False, description="freeze the embeddings alone, or besides")
    head_only: bool = Field(False, description="freeze everything but the head")
    names: Strings = Field(default_factory=list, description="freeze the parameters whose names match one of these regular expressions")
    unfreeze: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="gradual unfreezing: layers thaw one by one from the top, the last after this share of the updates"
    )
    trunk: Literal["auto", "kept", "computed"] = Field(
        "auto",
        description="what the frozen bottom layers give: kept on disk, or computed each time; auto keeps it where it can",
    )
    trunk_precision: Literal["fp32", "bf16"] = Field("fp32", description="how the kept output is stored")

    @field_validator("names")
    @classmethod
    def _readable(cls, value: list[str]) -> list[str]:
        return regular_expressions(value)

    @model_validator(mode="after")
    def _one_place(self) -> FreezeOptions:
        places = {"layers": self.layers is not None, "all_but_last": self.all_but_last is not None, "head_only": self.head_only}
        given = [name for name, on in places.items() if on]
        if len(given) > 1:
            raise ValueError(f"give one of {', '.join(given)}")
        return self
