"""Options of the reward task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.tasks.options import TaskOptions
from luthier.recipe.tasks.preference import ComparisonFormat, Role

RewardLoss = Literal["bradley_terry", "plackett_luce", "logistic"]
READ: dict[str, tuple[RewardLoss, ...]] = {
    "label_smoothing": ("bradley_terry",),
    "margin": ("bradley_terry",),
    "center": ("bradley_terry", "plackett_luce"),
}
"""Options that only some losses read."""


class RewardOptions(TaskOptions):
    """Learn to score answers as people do: from pairs, ranked lists, ratings, or answers that are good or bad."""

    type: Literal["reward"] = "reward"
    format: Literal["auto"] | ComparisonFormat = Field("auto", description="how rows hold answers; recognised by their columns where auto")
    columns: dict[Role, str] = Field(default_factory=dict, description="where a column has another name, e.g. chosen: better")
    threshold: float | None = Field(None, description="rating from which on an answer is good, where answers are good or bad")
    loss: Literal["auto"] | RewardLoss = Field(
        "auto", description="bradley_terry where pairs are compared, plackett_luce for ranked lists, logistic for answers good or bad"
    )
    margin: str | None = Field(None, description="column that says by how much the chosen answer should at least be ahead")
    center: Annotated[float, Field(ge=0)] = Field(
        0.0, description="weight of (reward of the better + reward of the worse)^2, which holds rewards near 0, e.g. 0.01"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(0.0, description="share of the comparisons that are the wrong way round")
    system: str | None = Field(None, description="system message put before conversations that have none")
    template: str | None = Field(None, description="file with a chat template, instead of the model's own")

    @model_validator(mode="after")
    def _options_are_read(self) -> RewardOptions:
        """Refuse what the loss does not read, where it is known."""
        if self.loss != "auto" and (faults := self.faults(self.loss)):
            raise ValueError("; ".join(faults))
        return self

    def faults(self, loss: RewardLoss) -> list[str]:
        """What is set and not read by a loss."""
        return [
            f"{name} is for {' and '.join(losses)}, and not read by {loss}"
            for name, losses in READ.items()
            if getattr(self, name) != type(self).model_fields[name].default and loss not in losses
        ]
