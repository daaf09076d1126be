"""Options of prompt tuning."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.methods.options import VirtualOptions


class PromptOptions(VirtualOptions):
    """Learned embeddings before each text (Lester et al. 2021)."""

    type: Literal["prompt"] = "prompt"
    start: str | None = Field(None, description="text whose embeddings they start from; tokens drawn at random where absent")
