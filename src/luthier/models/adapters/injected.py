"""What the methods share whose small weights PEFT puts into the model's layers.

Enters: a PEFT config. Leaves: the model with the adapters in place, its class and forward unchanged, so that
ragged batches, the head and generation work as before.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from luthier.models.adapters.method import Method, freeze_all, head_modules
from luthier.models.heads import PooledModel

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.options import AdapterOptions

TASK_TYPES = {
    "classes": "SEQ_CLS",
    "words": "TOKEN_CLS",
    "span": "QUESTION_ANS",
    "vector": "FEATURE_EXTRACTION",
    "causal": "CAUSAL_LM",
    "pairs": "SEQ_2_SEQ_LM",
    "masked": None,
}
"""PEFT's names for heads."""


class Injected(Method):
    """The part that is the same for all of them."""

    rate_factor = 10.0
    adapter = True
    mergeable = True
    options: AdapterOptions

    def config(self, loaded: Loaded, targets: Sequence[str]) -> Any:
        """PEFT's config for these modules."""
        raise NotImplementedError

    def targets(self, loaded: Loaded) -> list[str]:
        """Full names of the modules that get adapters."""
        return find_targets(loaded.model, self.options.target_modules, layers=self.options.layers)

    def refusal(self, loaded: Loaded) -> str | None:
        """There must be layers to adapt, and the head is not one of them."""
        found = self.targets(loaded)
        if not found:
            return f"no module is called {self.options.target_modules!r}; there are {', '.join(linear_names(loaded.model)[:12])}"
        out = loaded.model.get_output_embeddings() if loaded.head.kind in ("causal", "masked", "pairs") else None  # type: ignore[operator]
        if out is not None and any(loaded.model.get_submodule(n) is out for n in found):
            return "the head over the vocabulary takes no adapter: its loss is computed chunk by chunk; leave it out of target_modules"
        return None

    def goes_on(self, loaded: Loaded) -> bool:
        """Adapters of the same kind are trained further, with the sizes that they have."""
        from peft import PEFT_TYPE_TO_CONFIG_MAPPING

        here = loaded.trunk.peft_config["default"].peft_type
        return PEFT_TYPE_TO_CONFIG_MAPPING[here] is type(self.config(loaded, ["none"]))

    def place(self, loaded: Loaded) -> None:
        """Put the adapters in; heads of classifiers, and what started at random, train whole."""
        model, trunk = loaded.model, loaded.trunk
        freeze_all(trunk)
        if getattr(trunk, "peft_config", None):
            self._go_on(trunk)
            return
        torch.manual_seed(self.seed)
        config = self.config(loaded, [n.removeprefix("trunk.") if trunk is not model else n for n in self.targets(loaded)])
        config.task_type = TASK_TYPES[loaded.head.kind] if trunk is model else "FEATURE_EXTRACTION"
        config.modules_to_save = whole_modules(loaded) or None
        self.inject(trunk, config)

    def _go_on(self, trunk: nn.Module) -> None:
        from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

        mark = PEFT_TYPE_TO_PREFIX_MAPPING[trunk.peft_config["default"].peft_type]  # type: ignore[index, union-attr]
        for name, parameter in trunk.named_parameters():
            parameter.requires_grad_(mark in name or "modules_to_save" in name)

    def places(self, loaded: Loaded) -> list[str]:
        """Those that PEFT changed."""
        from peft.tuners.tuners_utils import BaseTunerLayer

        return [n for n, m in loaded.model.named_modules() if isinstance(m, BaseTunerLayer)]

    def inject(self, trunk: nn.Module, config: Any) -> None:
        """Let PEFT change the modules. Its tuner, which AdaLoRA needs again, is kept outside the model."""
        from peft import PEFT_TYPE_TO_TUNER_MAPPING

        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self.tuner: Any = PEFT_TYPE_TO_TUNER_MAPPING[config.peft_type](trunk, config, "default")


def whole_modules(loaded: Loaded) -> list[str]:
    """Modules that are trained and saved whole beside adapters."""
    if isinstance(loaded.model, PooledModel):
        return []
    fresh = {n.rpartition(".")[0] for n in loaded.drawn}
    heads = head_modules(loaded.model) if loaded.head.made else []
    return sorted({*heads, *(f for f in fresh if f and f.split(".")[0] not in heads)})


def linears(model: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer inside the stacks of layers, by its full name."""
    from transformers.pytorch_utils import Conv1D

    from luthier.models.adapters.method import layer_lists

    inside = {id(m) for stack in layer_lists(model) for layer in stack for m in layer.modules()}
    return {n: m for n, m in model.named_modules() if id(m) in inside and (isinstance(m, (nn.Linear, Conv1D)))}


def linear_names(model: nn.Module) -> list[str]:
    """The different last parts of their names."""
    return sorted({n.rpartition(".")[2] for n in linears(model)})


def find_targets(model: nn.Module, wanted: str | Sequence[str], *, layers: Sequence[int] | None = None) -> list[str]:
    """Full names of the modules meant by `all-linear`, `attention`, or by ends of names; in the given layers only."""
    found = list(linears(model))
    if wanted == "attention":
        found = [n for n in found if any("attention" in p.lower() or "attn" in p.lower() for p in n.split("."))]
    elif wanted != "all-linear":
        ends = [wanted] if isinstance(wanted, str) else list(wanted)
        everything = [n for n, m in model.named_modules() if any(True for _ in m.parameters(recurse=False))]
        found = [n for n in everything if any(n == e or n.endswith("." + e) for e in ends)]
    if layers is not None:
        found = [n for n in found if any(part.isdigit() and int(part) in layers for part in n.split("."))]
    return found
