"""Options of a reward model."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.rewards.options import RewardOptions, Seconds


class ModelOptions(RewardOptions):
    """What a model trained by the task `reward` thinks of the completion."""

    type: Literal["model"] = "model"
    run: str = Field(description="the reward model: a run's name, or its folder, from the recipe's folder or the working folder")
    timeout: Seconds = Field(60.0, description="seconds that scoring may take for each prompt; all of a batch are scored together")
