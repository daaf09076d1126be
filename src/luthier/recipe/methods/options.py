"""What the options of every method share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from luthier.recipe.fields import Strings

Targets = Literal["all-linear", "attention"] | Strings


class MethodOptions(BaseModel):
    """The `method:` section of a recipe; each method subclasses it with its own fields."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    type: str


class AdapterOptions(MethodOptions):
    """What the methods share that put small weights beside the layers' own."""

    target_modules: Targets = Field(
        "all-linear", description="layers that get adapters: all-linear, attention, or ends of module names such as q_proj"
    )
    layers: list[Annotated[int, Field(ge=0)]] | None = Field(None, description="numbers of the layers that get adapters; all where absent")


class VirtualOptions(MethodOptions):
    """What the methods share that put learned tokens before each text."""

    virtual_tokens: Annotated[int, Field(gt=0)] = Field(20, description="learned tokens before each text")
