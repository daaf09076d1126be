"""What every method can be asked. A method changes a loaded model in place, once, before training.

Enters: the method's options. Leaves, from `apply`: which parameters train. Around each update it may move
what trains (`before_update`), look at gradients (`after_update`) and add to the loss (`penalty`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from luthier.errors import ModelError

if TYPE_CHECKING:
    from luthier.models.load import Loaded


ENCODER = "prompt_encoder"
"""Where learned tokens lie in a model, as PEFT names it."""


class Method:
    """The part that is the same for all; alone it leaves every weight free."""

    rate_factor: ClassVar[float] = 1.0
    """How much higher the inferred learning rate is than that of full fine-tuning."""
    fastest: ClassVar[float] = float("inf")
    """The highest inferred learning rate of a model that is no toy: beyond it what is learned collapses."""
    mergeable: ClassVar[bool] = False
    adapter: ClassVar[bool] = False
    """Whether what is learned is saved beside the base model rather than in it."""

    def __init__(self, options: Any, *, seed: int = 0) -> None:
        self.options, self.seed = options, seed

    @property
    def name(self) -> str:
        """As in the recipe."""
        return str(self.options.type)

    def refusal(self, loaded: Loaded) -> str | None:
        """Why the method does not work for this model and head; None where it does."""
        return None

    def goes_on(self, loaded: Loaded) -> bool:
        """Whether the method trains the adapters further that a model already has."""
        return False

    def apply(self, loaded: Loaded) -> None:
        """Change the model. Raises ModelError where it cannot."""
        if (reason := self.refusal(loaded)) is not None:
            raise ModelError(f"{self.name} does not work here: {reason}", where="method", remedy="choose another method, such as lora")
        self.place(loaded)
        if not any(p.requires_grad for p in loaded.model.parameters()):
            raise ModelError("leaves nothing to train", where="method", remedy="free more layers")

    def place(self, loaded: Loaded) -> None:
        """The change itself."""

    def before_update(self, model: nn.Module, step: int, total: int) -> None:
        """Called with the 0-based number of the update about to be made, of `total`."""

    def after_update(self, model: nn.Module, step: int, total: int) -> None:
        """Called when weights have moved and gradients are still there."""

    def penalty(self, model: nn.Module) -> Tensor | None:
        """What is added to the mean loss."""
        return None

    def places(self, loaded: Loaded) -> list[str]:
        """Names of the modules that got adapters."""
        return []

    def rate_scale(self, name: str) -> float:
        """The learning rate of a parameter over that of the others."""
        return 1.0

    def state(self) -> dict[str, Tensor]:
        """What a resumed training needs beside weights."""
        return {}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""


def head_modules(model: nn.Module) -> list[str]:
    """Names of what stands on the trunk: the modules of a model that its base model does not hold."""
    base = getattr(model, "base_model_prefix", "trunk")  # a PooledModel has none: it calls what it stands on so
    return [name for name, child in model.named_children() if name not in (base, ENCODER) and any(True for _ in child.parameters())]


def freeze_all(model: nn.Module) -> None:
    """Let nothing move."""
    for parameter in model.parameters():
        parameter.requires_grad_(False)


def free_head(loaded: Loaded) -> None:
    """Let a classifier's head move, and whatever started at random: it has nothing to keep."""
    fresh = {n.rpartition(".")[0] for n in loaded.drawn}
    heads = head_modules(loaded.model) if loaded.head.made else []
    for name, module in loaded.model.named_modules():
        if name in fresh or name.split(".")[0] in heads:
            for parameter in module.parameters(recurse=name.split(".")[0] in heads):
                parameter.requires_grad_(True)


def trained(model: nn.Module) -> dict[str, Tensor]:
    """The entries of the state that training changes: free parameters, and buffers."""
    frozen = {n for n, p in model.named_parameters(remove_duplicate=False) if not p.requires_grad}
    return {n: t for n, t in model.state_dict().items() if n not in frozen}


def layer_lists(model: nn.Module) -> list[nn.ModuleList]:
    """The stacks of layers: one in an encoder or a decoder, two where there are both; those of most parameters."""
    stacks = [m for m in model.modules() if isinstance(m, nn.ModuleList) and len(m) and _alike(m)]
    inside = {id(sub) for stack in stacks for layer in stack for sub in layer.modules()}
    return [s for s in stacks if id(s) not in inside]


def layer_rates(model: nn.Module, decay: float) -> Callable[[str], float]:
    """Layer-wise learning rates (Howard and Ruder 2018): 1 above the layers, `decay` in the top one, and so on down; embeddings last."""
    if decay == 1.0:
        return lambda name: 1.0
    names = {id(m): n for n, m in model.named_modules()}
    depth: dict[str, int] = {}
    most = 0
    for stack in layer_lists(model):
        most = max(most, len(stack))
        depth |= {f"{names[id(layer)]}.": len(stack) - place for place, layer in enumerate(stack)}
    tables = {names[id(m)] for m in model.modules() if isinstance(m, nn.Embedding)}

    def rate(name: str) -> float:
        place = next((steps for prefix, steps in depth.items() if name.startswith(prefix)), None)
        if place is None:
            place = most + 1 if name.rpartition(".")[0] in tables or "embeddings" in name.split(".") else 0
        return decay**place

    return rate


def _alike(stack: nn.ModuleList) -> bool:
    return (
        len({type(layer) for layer in stack}) == 1
        and sum(p.numel() for p in stack[0].parameters()) > 0
        and not isinstance(stack[0], (nn.Linear, nn.Embedding, nn.LayerNorm))
    )


def count(model: nn.Module) -> tuple[int, int]:
    """Trainable and all parameters; weights packed in 4 bits count as what they stand for."""
    free = total = 0
    for parameter in model.parameters():
        number = getattr(parameter, "stands_for", parameter.numel())
        if type(parameter).__name__ == "Params4bit" and getattr(parameter, "bnb_quantized", False):
            number *= 2 * torch.empty(0, dtype=parameter.quant_storage).element_size()  # type: ignore[attr-defined]
        total += number
        free += number if parameter.requires_grad else 0
    return free, total


def describe(method: Method, loaded: Loaded) -> str:
    """What is trained, for people: `lora on k_proj, q_proj: trainable 8,388,608 of 6,666,862,592 (0.1258%)`."""
    free, total = count(loaded.model)
    places = sorted({n.rpartition(".")[2] for n in method.places(loaded)})
    where = f" on {', '.join(places)}" if places else ""
    return f"{method.name}{where}: trainable {free:,} of {total:,} ({free / total:.4%})"
