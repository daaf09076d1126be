"""Options of preference pairs."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.synthesis.options import SynthesisOptions


class PairsOptions(SynthesisOptions):
    """Preference pairs: two answers to each prompt, and which one is better by the model itself, asked in both orders."""

    type: Literal["pairs"] = "pairs"
    prompt: str = Field("prompt", description="column of the prompts")
