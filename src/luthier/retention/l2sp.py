"""L2-SP: weights are drawn to where they started (Li et al. 2018, Explicit Inductive Bias for Transfer Learning, eq. 3).

    strength / 2 ||w - w0||^2 + head_strength / 2 ||w_new||^2

where w are the trained weights that existed before, and w_new those that started at random. With LoRA the
weights that existed are those of the adapted layers, which moved by s B A: the penalty is on ||s B A - s B0 A0||^2, the
same as on the merged weights, and computed from matrices of rank x rank.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.batch import Batch
from luthier.recipe.retention.l2sp import L2SPOptions
from luthier.retention.quadratic import distance
from luthier.retention.retention import Retention, Start, adapter_layers, adapter_names, fresh_names, has_learned_tokens, moving, remember

FACTOR = "factor."
"""Marks what is saved of the adapters' factors."""


class L2SP(Retention):
    """The way."""

    copies, dense, remembers = 1, True, "anchors"
    options: L2SPOptions

    def __init__(self, options: L2SPOptions, *, seed: int = 0) -> None:
        super().__init__(options, seed=seed)
        self.learned: set[str] = set()
        """Parameters that started at random, and have learned in an earlier stage."""

    def refusal(self, start: Start) -> str | None:
        """Adapters other than LoRA's move the layers in ways that are no plain product."""
        if has_learned_tokens(start.loaded):
            return f"{start.method.name} moves no weight that was there before; it forgets nothing when it is taken away"
        if not adapter_layers(start.loaded):
            return None
        if start.method.name not in ("lora", "qlora"):
            return f"how far {start.method.name} moves the layers is not computed here; choose lora, or ewc"
        if start.method.options.dora:
            return "DoRA moves lengths and directions apart; take dora out, or choose ewc"
        return None

    def begin(self, start: Start) -> None:
        """Remember where weights and adapters start."""
        apart, fresh = adapter_names(start.loaded), fresh_names(start.loaded) - self.learned
        self.anchors = remember({n: p for n, p in moving(start.loaded.model).items() if n not in apart | fresh})
        self.fresh = {n for n in moving(start.loaded.model) if n in fresh}
        self.layers = list(adapter_layers(start.loaded).values())
        self.factors = [tuple(t.detach().clone() for t in factors(layer)) for layer in self.layers]

    def turn(self, start: Start, stage: str, batches: Callable[[], Iterable[Batch]]) -> None:
        """From here on the stage's head has learned, and is held where it is."""
        self.learned |= {n for n in moving(start.loaded.model) if n.startswith(f"head.{stage}.")}
        super().turn(start, stage, batches)

    def state(self) -> dict[str, Tensor]:
        """What was remembered at the end of a stage: of weights, and of the adapters' factors."""
        found = super().state()
        if self.turned:
            found |= {f"{FACTOR}{i}.{j}": t for i, pair in enumerate(self.factors) for j, t in enumerate(pair)}
        return found

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        own = {n: t for n, t in state.items() if not n.startswith(FACTOR)}
        self.learned |= own.keys() & self.fresh
        device = next((t.device for t in self.anchors.values()), None)
        self.anchors |= {n: own[n].to(device) for n in own.keys() & self.fresh}
        self.fresh -= self.learned
        super().load_state(own)
        if f"{FACTOR}0.0" in state:
            self.factors = [
                tuple(state[f"{FACTOR}{i}.{j}"].to(t.device, t.dtype) for j, t in enumerate(p)) for i, p in enumerate(self.factors)
            ]
            self.turned = True

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """Both terms."""
        parameters = moving(model)
        old = distance((parameters[n], anchor, None) for n, anchor in self.anchors.items() if n in parameters)
        new = distance((parameters[n], None, None) for n in sorted(self.fresh) if n in parameters)
        moved = [_moved(layer, start) for layer, start in zip(self.layers, self.factors, strict=True)]
        terms = [(self.options.strength, t) for t in (old, *moved) if t is not None] + (
            [(self.options.head_strength, new)] if new is not None else []
        )
        return torch.stack([weight * term for weight, term in terms]).sum() if terms else None


def factors(layer: Any) -> tuple[Tensor, Tensor]:
    """(s B, A) of a LoRA layer, (out, rank) and (rank, in), whose product the adapter adds to the weight."""
    scale = layer.scaling["default"]
    if "default" in layer.lora_A:
        return scale * layer.lora_B["default"].weight, layer.lora_A["default"].weight
    return scale * layer.lora_embedding_B["default"], layer.lora_embedding_A["default"]


def _moved(layer: Any, start: tuple[Tensor, ...]) -> Tensor:
    """1/2 ||B A - B0 A0||^2 from Gram matrices: ||P Q||^2 = sum((P'P) * (Q Q')) with P = [B, -B0], Q = [A; A0]."""
    (b, a), (b0, a0) = factors(layer), start
    left, right = b.float(), a.float()
    if bool(b0.any()):
        left, right = torch.cat([left, -b0.float()], 1), torch.cat([right, a0.float()], 0)
    return ((left.T @ left) * (right @ right.T)).sum() / 2
