"""Options of the causal language-model task."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.tasks.options import WritingOptions


class CausalOptions(WritingOptions):
    """Learn to continue plain text: domain adaptation, and pre-training."""

    type: Literal["causal"] = "causal"
    prompts: list[str] = Field(default_factory=list, description="beginnings that the report shows continued, before and after")
