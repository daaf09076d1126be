"""What every way to protect old skills can be asked.

Enters: the way's options, and at the beginning of a training its `Start`. Leaves: what is added to the mean loss of a
batch (`penalty`), and once training has ended whatever weights the way prefers (`finish`). All that it holds is made from
the starting weights in `begin`, which a resumed run repeats to the same bits; what came later is saved (`state`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from luthier.errors import ModelError
from luthier.models.adapters.method import ENCODER, Method
from luthier.models.batch import Batch, Loss
from luthier.models.load import Loaded
from luthier.retention.earlier import Rows

PEFT_LEVELS = ("default", "modules_to_save", "base_layer")
"""Levels that PEFT adds to the names of modules."""


@dataclass(frozen=True)
class Start:
    """A training about to begin: `loss` is the task's negative log-likelihood, `rows` are those of the section's files."""

    loaded: Loaded
    method: Method
    loss: Callable[[nn.Module, Batch], Loss]
    rows: Rows | None = None
    max_tokens: int = 8192


@dataclass(frozen=True)
class Mix:
    """The share of the trained weights that was kept, and the losses of each share that was tried."""

    weight: float
    tried: dict[float, dict[str, float]]


class Retention:
    """The part that is the same for all; alone it protects nothing."""

    copies: ClassVar[int] = 0
    """How many times the size of what trains it holds."""
    dense: ClassVar[bool] = False
    """Whether it gives every trained weight a gradient, also rows of tables that a batch does not look up."""
    remembers: ClassVar[str] = ""
    """The attribute, tensors by name, that `begin` fills."""
    turned = False
    """Whether a stage of a curriculum has ended."""

    def __init__(self, options: Any, *, seed: int = 0) -> None:
        self.options, self.seed = options, seed

    @property
    def name(self) -> str:
        """As in the recipe."""
        return str(self.options.type)

    def refusal(self, start: Start) -> str | None:
        """Why it does not work for this model, head and method; None where it does."""
        return None

    def check(self, start: Start) -> None:
        """Raise ModelError where it does not work."""
        reason = "a new model has nothing to keep" if start.loaded.base is None and self.name != "none" else self.refusal(start)
        if reason is not None:
            raise ModelError(f"{self.name} does not work here: {reason}", where="retention", remedy="choose another way, or none")

    def begin(self, start: Start) -> None:
        """Remember what must be remembered of the starting weights, which the model still has."""

    def before_update(self, step: int) -> None:
        """Called with the 0-based number of the update about to be made."""

    def turn(self, start: Start, stage: str, batches: Callable[[], Iterable[Batch]]) -> None:
        """Called between two stages of a curriculum, after `finish`: what has been learned by now is old from here on.

        `stage` is the one that ended, and `batches` gives rows of it, one a batch.
        """
        self.begin(start)
        self.turned = True

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """What is added to the mean loss of `batch`."""
        return None

    def finish(self, model: nn.Module, *, judge: Callable[[], Mapping[str, float]]) -> Mix | None:
        """Called at the end of a training and of each stage, with the trained weights in place.

        `judge` scores the weights of the moment: name -> loss.
        """
        return None

    def state(self) -> dict[str, Tensor]:
        """What a resumed training needs and `begin` does not give: what was remembered at the end of a stage."""
        return dict(getattr(self, self.remembers)) if self.turned and self.remembers else {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        if state and self.remembers:
            own = getattr(self, self.remembers)
            own.update({n: state[n].to(t.device, t.dtype) for n, t in own.items()})
            self.turned = True


def moving(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that train, by name, also those that are yet to thaw."""
    return {n: p for n, p in model.named_parameters() if p.requires_grad or getattr(p, "thaws", False)}


def fresh_names(loaded: Loaded) -> set[str]:
    """Names of the parameters that started at random, as they are called now."""
    drawn = set(loaded.drawn)
    head = ("head.",) if loaded.fresh_head and not drawn else ()
    return {n for n, _ in loaded.model.named_parameters() if plain_name(n) in drawn or n.startswith(head)}


def plain_name(name: str) -> str:
    """A parameter's name without PEFT's own levels."""
    return ".".join(p for p in name.split(".") if p not in PEFT_LEVELS)


def has_learned_tokens(loaded: Loaded) -> bool:
    """Whether the method put learned tokens or a prefix before each text."""
    return any(ENCODER in n.split(".") for n, _ in loaded.model.named_modules())


def adapter_layers(loaded: Loaded) -> dict[str, Any]:
    """The modules that carry adapters, by name."""
    if not loaded.trunk.__dict__.get("peft_config"):
        return {}
    from peft.tuners.tuners_utils import BaseTunerLayer

    return {n: m for n, m in loaded.model.named_modules() if isinstance(m, BaseTunerLayer)}


def adapter_names(loaded: Loaded) -> set[str]:
    """Names of the trained parameters that are part of an adapter, which no plain model has."""
    layers = adapter_layers(loaded)
    return {
        n for n in moving(loaded.model)
        if any(n.startswith(f"{layer}.") and not n.startswith(f"{layer}.base_layer.") for layer in layers)
    }  # fmt: skip


def remember(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of weights as they are."""
    with torch.no_grad():
        return {n: p.detach().clone() for n, p in parameters.items()}
