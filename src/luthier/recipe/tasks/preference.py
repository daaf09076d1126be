"""Options of the preference task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.tasks.options import TaskOptions

ComparisonFormat = Literal["pairs", "ranked", "unpaired", "openai"]
Role = Literal["prompt", "chosen", "rejected", "completions", "ratings", "completion", "label", "system", "tools"]
Objective = Literal["sigmoid", "robust", "ipo", "hinge", "kto", "orpo", "simpo", "cpo"]
READ: dict[str, tuple[Objective, ...]] = {
    "label_smoothing": ("sigmoid", "robust", "cpo"),
    "normalize": ("sigmoid", "robust", "hinge", "cpo"),
    "sft": ("sigmoid", "robust", "hinge", "ipo", "simpo", "cpo"),
    "gamma": ("simpo",),
    "good_weight": ("kto",),
    "bad_weight": ("kto",),
    "reference": ("sigmoid", "robust", "ipo", "hinge", "kto"),
}
"""Options that only some losses read."""


class PreferenceOptions(TaskOptions):
    """Learn what people prefer: from pairs, ranked lists, ratings, or answers that are good or bad."""

    type: Literal["preference"] = "preference"
    format: Literal["auto"] | ComparisonFormat = Field("auto", description="how rows hold answers; recognised by their columns where auto")
    columns: dict[Role, str] = Field(default_factory=dict, description="where a column has another name, e.g. chosen: better")
    threshold: float | None = Field(None, description="rating from which on an answer is good, where answers are good or bad")
    loss: Literal["auto"] | Objective = Field("auto", description="sigmoid (DPO) where answers are compared, kto where they are not")
    beta: Annotated[float, Field(gt=0)] = Field(
        0.1, description="how strongly the model is held to its start; without a reference, what differences of log-probabilities count"
    )
    label_smoothing: Annotated[float, Field(ge=0, lt=0.5)] = Field(0.0, description="share of the comparisons that are the wrong way round")
    normalize: bool = Field(False, description="compare log-probabilities per token, so that long answers do not count more")
    sft: Annotated[float, Field(ge=0)] = Field(0.0, description="weight of the chosen answer's own loss per token, which anchors it")
    gamma: Annotated[float, Field(ge=0)] = Field(0.5, description="margin by which simpo wants the chosen answer ahead")
    good_weight: Annotated[float, Field(gt=0)] = Field(1.0, description="what a good answer counts in kto")
    bad_weight: Annotated[float, Field(gt=0)] = Field(1.0, description="what a bad answer counts in kto")
    reference: Literal["precomputed", "recomputed"] = Field(
        "precomputed", description="the start's log-probabilities: computed once and kept, or again in each step from a copy of what trains"
    )
    system: str | None = Field(None, description="system message put before conversations that have none")
    template: str | None = Field(None, description="file with a chat template, instead of the model's own")
    max_new_tokens: Annotated[int, Field(gt=0)] = Field(128, description="longest answer in tokens, in evaluation and by default")

    @model_validator(mode="after")
    def _options_are_read(self) -> PreferenceOptions:
        """Refuse what the loss does not read, where it is known."""
        if self.loss != "auto" and (faults := self.faults(self.loss)):
            raise ValueError("; ".join(faults))
        return self

    def faults(self, loss: Objective) -> list[str]:
        """What is set and not read by a loss; and a robust loss without a share of errors."""
        found = [
            f"{name} is for {', '.join(losses)}, and not read by {loss}"
            for name, losses in READ.items()
            if getattr(self, name) != type(self).model_fields[name].default and loss not in losses
        ]
        if loss == "robust" and not self.label_smoothing:
            found.append("robust needs label_smoothing, the share of comparisons that are the wrong way round")
        return found
