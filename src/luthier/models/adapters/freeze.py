"""Layer freezing: embeddings and bottom layers stay as they are, at once or thawing as training goes on.

Frozen layers run without dropout: they are not being regularised. Where the frozen part is the bottom of the
model, its output can be kept and need not be computed again (`models/trunk.py`).
"""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING

from torch import nn

from luthier.models.adapters.method import Method, freeze_all, head_modules, layer_lists
from luthier.models.forward import trunk_of

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.freeze import FreezeOptions


class Freeze(Method):
    """The method, with its stages: which modules thaw after which share of the updates (Howard and Ruder 2018)."""

    options: FreezeOptions

    def refusal(self, loaded: Loaded) -> str | None:
        """Layers must be found, and there must be as many as are named."""
        if self.options.head_only and not loaded.head.made:
            return "head_only is for a head made for the task: a language model's is its vocabulary; try layers or all_but_last"
        stacks = layer_lists(trunk_of(loaded.model))
        if not stacks:
            return f"no stack of layers was found in a {loaded.model.config.model_type} model"
        wanted = self.options.layers if self.options.layers is not None else self.options.all_but_last
        most = max(len(s) for s in stacks)
        if wanted is not None and wanted > most:
            return f"the model has {most} layers, not {wanted}"
        return None

    def bottom(self, loaded: Loaded) -> int | None:
        """How many bottom layers are frozen with the embeddings; None where other parts are named alone."""
        options, most = self.options, max(len(s) for s in layer_lists(trunk_of(loaded.model)))
        if options.head_only:
            return most
        if options.all_but_last is not None:
            return most - options.all_but_last
        if options.layers is not None:
            return options.layers
        return None if options.embeddings or options.names else most // 2

    def place(self, loaded: Loaded) -> None:
        """Freeze what the options name, and order what thaws."""
        model, trunk = loaded.model, trunk_of(loaded.model)
        bottom = self.bottom(loaded)
        self.stages: list[list[nn.Parameter]] = []
        if bottom is not None:
            if self.options.head_only:
                freeze_all(trunk)
            for stack in layer_lists(trunk):
                for layer in list(stack)[:bottom]:
                    freeze_all(layer)
            self.stages = [[p for s in layer_lists(trunk) if at < len(s) for p in s[at].parameters()] for at in reversed(range(bottom))]
        if bottom is not None or self.options.embeddings:
            tables = [p for module in _embeddings(trunk) for p in module.parameters()]
            for parameter in tables:
                parameter.requires_grad_(False)
            self.stages.append(tables)
        named = [p for n, p in model.named_parameters() if any(re.search(pattern, n) for pattern in self.options.names)]
        for parameter in named:
            parameter.requires_grad_(False)
        if named:
            self.stages.append(named)
        if self.options.unfreeze is None:
            for module in frozen_modules(model) + (_below_layers(trunk) if bottom is not None else []):
                module.eval()
                module.train = lambda mode=True, module=module: module  # type: ignore[assignment, method-assign, misc]
            self.stages = []
        self.thawing = [p for stage in self.stages for p in stage]
        for parameter in self.thawing:  # the optimizer holds them from the start; before_update says which of them move
            parameter.requires_grad_(True)
            parameter.thaws = True  # type: ignore[attr-defined]  # trains in the end, whether it moves at the moment or not
        for name in head_modules(model) if loaded.head.made else []:
            for parameter in model.get_submodule(name).parameters():
                parameter.requires_grad_(not any(parameter is p for p in named))

    def before_update(self, model: nn.Module, step: int, total: int) -> None:
        """Thaw the stages whose time has come: evenly over the share of the updates, from the top."""
        if not self.stages:
            return
        span = max(1.0, (self.options.unfreeze or 0.0) * total)
        thawed = min(len(self.stages), math.floor(step / span * len(self.stages)))
        for place, stage in enumerate(self.stages):
            for parameter in stage:
                parameter.requires_grad_(place < thawed)


def _embeddings(trunk: nn.Module) -> list[nn.Module]:
    """The embeddings of an encoder or decoder: the module called so, else every table outside the layers."""
    whole = [m for n, m in trunk.named_children() if "embeddings" in n]
    inside = {id(m) for stack in layer_lists(trunk) for layer in stack for m in layer.modules()}
    return whole or [m for m in trunk.modules() if isinstance(m, nn.Embedding) and id(m) not in inside]


def _below_layers(trunk: nn.Module) -> list[nn.Module]:
    """What has no weights and stands before a stack of layers, such as GPT-2's dropout of embeddings."""
    stacks = {id(s) for s in layer_lists(trunk)}
    found: list[nn.Module] = []
    for holder in trunk.modules():
        children = list(holder.children())
        place = next((i for i, child in enumerate(children) if id(child) in stacks), 0)
        found += [child for child in children[:place] if not any(True for _ in child.parameters())]
    return found


def frozen_modules(model: nn.Module) -> list[nn.Module]:
    """The largest modules of which no weight moves."""
    found: list[nn.Module] = []

    def look(module: nn.Module) -> None:
        parameters = list(module.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            found.append(module)
            return
        for child in module.children():
            look(child)

    look(model)
    return found
