"""Options of policy optimisation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.rewards import Rewards
from luthier.recipe.tasks.options import TaskOptions

Algorithm = Literal["grpo", "rloo", "ppo"]
READ: dict[str, tuple[Algorithm, ...]] = {
    "kl_in": ("grpo",),
    "unbiased_kl": ("grpo",),
    "gae_lambda": ("ppo",),
    "value_weight": ("ppo",),
    "value_clip": ("ppo",),
    "value_rate": ("ppo",),
}
"""Options that only some algorithms read."""


class PolicyOptions(TaskOptions):
    """Learn from rewards for the model's own answers: GRPO, RLOO or PPO."""

    type: Literal["policy"] = "policy"
    algorithm: Algorithm = Field(
        "grpo", description="how an answer is judged: beside its siblings (grpo, rloo), or by a value learned for each token (ppo)"
    )
    rewards: Rewards = Field(min_length=1, description="what is good: a list of rewards, each a name or a section with a type and a weight")
    columns: dict[Literal["prompt", "system", "tools"], str] = Field(
        default_factory=dict, description="where a column has another name, e.g. prompt: question"
    )
    completions: Annotated[int, Field(gt=0)] = Field(8, description="answers drawn for each prompt")
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="at which answers are drawn, and their likelihoods taken")
    max_new_tokens: Annotated[int, Field(gt=0)] = Field(128, description="longest answer in tokens, in training and evaluation")
    ahead: Annotated[int, Field(gt=0)] = Field(1, description="updates whose prompts are answered at once, with the same weights")
    iterations: Annotated[int, Field(gt=0)] = Field(1, description="how often each answer is trained on")
    beta: Annotated[float, Field(ge=0)] = Field(0.04, description="how strongly the model is held to its start, by their KL divergence")
    kl_in: Literal["loss", "reward"] = Field("loss", description="grpo: the KL divergence is added to the loss, or taken off the reward")
    unbiased_kl: bool = Field(
        True, description="grpo, in the loss: the KL divergence is weighed by the ratio, so that its gradient is unbiased (DeepSeek-V3.2)"
    )
    scale: Literal["auto", "group", "batch", "none"] = Field(
        "auto",
        description="advantages are divided by the deviation of a prompt's rewards, of all prompts', or by nothing (Dr. GRPO); auto: "
        "group for grpo, none for rloo, batch for ppo",
    )
    importance: Literal["auto", "token", "sequence", "mean"] = Field(
        "auto",
        description="the ratio of new to old likelihood: of each token, of the whole answer, or the answer's geometric mean (GSPO); auto: "
        "sequence for rloo, else token",
    )
    normalize: Literal["auto", "sequence", "token", "constant"] = Field(
        "auto",
        description="the loss is a mean over answers of token means, a mean over all tokens (DAPO), or over answers of sums divided by "
        "max_new_tokens (Dr. GRPO); auto: token for ppo, else sequence",
    )
    clip: Annotated[float, Field(gt=0, lt=1)] = Field(0.2, description="how far below 1 a ratio counts")
    clip_high: Annotated[float, Field(gt=0)] | None = Field(None, description="how far above 1 (DAPO's higher clip); clip where absent")
    clip_most: Annotated[float, Field(gt=1)] | None = Field(None, description="largest ratio that counts where the answer was bad, too")
    stale: Annotated[float, Field(gt=0)] | None = Field(
        None, description="bad answers are left out that the model has moved away from by more nats a token since they were drawn"
    )
    truncated: Literal["keep", "mask"] = Field("keep", description="answers cut at max_new_tokens: learned from, or left out of the loss")
    truncation_penalty: Annotated[float, Field(ge=0)] = Field(0.0, description="taken off the reward of answers cut at max_new_tokens")
    resample: Annotated[int, Field(ge=0)] = Field(
        0, description="how often prompts whose answers all got the same reward are replaced by the next ones (DAPO's dynamic sampling)"
    )
    gae_lambda: Annotated[float, Field(ge=0, le=1)] = Field(0.95, description="ppo: how far back a surprise is credited (GAE)")
    value_weight: Annotated[float, Field(gt=0)] = Field(0.1, description="ppo: weight of the value's loss")
    value_clip: Annotated[float, Field(gt=0)] = Field(0.2, description="ppo: how far a value may move from the old one in its loss")
    value_rate: Annotated[float, Field(gt=0)] = Field(10.0, description="ppo: how many times as fast as the model its value head learns")
    stop_kl: Annotated[float, Field(gt=0)] | None = Field(
        None, description="stop where the KL divergence from the start, nats a token, is more"
    )
    stop_entropy: Annotated[float, Field(gt=0)] | None = Field(None, description="stop where the entropy, nats a token, is less")
    system: str | None = Field(None, description="system message put before prompts that have none")
    template: str | None = Field(None, description="file with a chat template, instead of the model's own")

    @model_validator(mode="after")
    def _options_are_read(self) -> PolicyOptions:
        faults = [
            f"{name} is for {', '.join(algorithms)}, and not read by {self.algorithm}"
            for name, algorithms in READ.items()
            if self.algorithm not in algorithms and getattr(self, name) != type(self).model_fields[name].default
        ]
        if self.completions < 2 and self.algorithm != "ppo":
            faults.append(f"{self.algorithm} compares answers to the same prompt: set completions to 2 or more")
        if self.completions < 2 and self.resample:
            faults.append("resample looks at several answers to the same prompt: set completions to 2 or more")
        if self.kl_in == "reward" and not self.unbiased_kl:
            faults.append("unbiased_kl is for the KL divergence in the loss: take it out, or kl_in")
        if self.algorithm == "ppo" and self.scale == "group":
            faults.append("scale: group is for grpo and rloo: ppo judges each token by its value")
        if self.ahead * self.iterations == 1 and self.stale is not None:
            faults.append("answers are never stale with ahead: 1 and iterations: 1: take stale out")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    @property
    def scaled_by(self) -> Literal["group", "batch", "none"]:
        """What advantages are divided by."""
        if self.scale != "auto":
            return self.scale
        return {"grpo": "group", "rloo": "none", "ppo": "batch"}[self.algorithm]  # type: ignore[return-value]

    @property
    def ratio_of(self) -> Literal["token", "sequence", "mean"]:
        """Of what the ratio is taken."""
        return self.importance if self.importance != "auto" else "sequence" if self.algorithm == "rloo" else "token"

    @property
    def mean_over(self) -> Literal["sequence", "token", "constant"]:
        """What the loss is a mean over."""
        return self.normalize if self.normalize != "auto" else "token" if self.algorithm == "ppo" else "sequence"

    @property
    def penalised(self) -> bool:
        """Whether the KL divergence is taken off the reward rather than added to the loss."""
        return self.algorithm != "grpo" or self.kl_in == "reward"
