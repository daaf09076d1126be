"""Weights between the start and the end of a training (Wortsman et al. 2022, Robust fine-tuning of zero-shot models, eq. 1).

    w = (1 - weight) w0 + weight w1

Nothing is trained further. At 0 and 1 these are the starting and the trained weights, bit for bit. Of adapters, whose start adds
nothing to the layers, the contribution is scaled. Weights that started at random keep their trained values: there is
nothing to mix them with.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from luthier.models.adapters.lora import CHANGING
from luthier.recipe.retention.soup import SoupOptions
from luthier.retention.retention import (
    Mix,
    Retention,
    Start,
    adapter_layers,
    adapter_names,
    fresh_names,
    has_learned_tokens,
    moving,
    remember,
)

SCALED = {
    "lora": ("lora_B", "lora_embedding_B"),
    "qlora": ("lora_B", "lora_embedding_B"),
    "adalora": ("lora_E",),
    "vera": ("vera_lambda_b",),
    "ia3": ("ia3_l",),
}
"""For each kind of adapter the weights in which its contribution is linear: mixing these alone scales it."""
VALIDATION = "validation"


class Soup(Retention):
    """The way."""

    remembers = "values"
    copies = 1
    options: SoupOptions

    def refusal(self, start: Start) -> str | None:
        """The way from start to end must be a straight line in the weights."""
        if has_learned_tokens(start.loaded):
            return f"a text half with the tokens of {start.method.name} and half without does not exist"
        if not adapter_layers(start.loaded):
            return None
        name, options = start.method.name, start.method.options
        if name not in SCALED:
            return f"what {name} adds cannot be scaled; choose lora"
        if getattr(options, "dora", False):
            return "DoRA changes lengths and directions apart, which is no line; take dora out"
        if getattr(options, "init", "") in CHANGING:
            return f"init {options.init} takes its share out of the base weights; set it to default"
        if name != "ia3" and any(p.any() for n, p in moving(start.loaded.model).items() if _scaled(n, name)):
            return "the adapters have learned before, and two of them do not mix; merge them first (luthier merge)"
        return None

    def begin(self, start: Start) -> None:
        """Remember the starting values of what is mixed."""
        model, fresh, apart = start.loaded.model, fresh_names(start.loaded), adapter_names(start.loaded)
        self.values = remember(
            {n: p for n, p in moving(model).items() if n not in fresh and (n not in apart or _scaled(n, start.method.name))}
        )

    def finish(self, model: nn.Module, *, judge: Callable[[], Mapping[str, float]]) -> Mix:
        """Put the mix in place: of the weight that the recipe names, or of the best one."""
        parameters = dict(model.named_parameters())
        ends = remember({n: parameters[n] for n in self.values})
        tried: dict[float, dict[str, float]] = {}
        if self.options.weight == "auto":
            for step in range(self.options.steps + 1):
                weight = step / self.options.steps
                self._mix(parameters, ends, weight)
                tried[weight] = dict(judge())
            chosen = max(tried, key=lambda w: (-total(tried[w]), w))
        else:
            chosen = float(self.options.weight)
        self._mix(parameters, ends, chosen)
        return Mix(chosen, tried)

    @torch.no_grad()
    def _mix(self, parameters: Mapping[str, Tensor], ends: Mapping[str, Tensor], weight: float) -> None:
        for name, start in self.values.items():
            end = ends[name]
            parameters[name].copy_(start if weight == 0.0 else end if weight == 1.0 else torch.lerp(start, end, weight))


def total(losses: Mapping[str, float]) -> float:
    """What is to be least: the loss on validation, and the mean loss on the probes beside it."""
    others = [v for n, v in losses.items() if n != VALIDATION]
    return losses[VALIDATION] + (sum(others) / len(others) if others else 0.0)


def _scaled(name: str, method: str) -> bool:
    return any(part in SCALED.get(method, ()) for part in name.split("."))
