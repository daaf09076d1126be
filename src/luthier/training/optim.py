"""Gradients to weights: AdamW over decayed and undecayed parameters, with fp32 masters or without.

Enters: gradients, as sums over the batches of an update. Leaves: moved weights. Scaling (division by
the update's weight, and clipping) happens inside the optimizer's one pass over memory. Nothing is
moved when the gradient is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luthier.training.rules import rule

if TYPE_CHECKING:
    from luthier.models.embedding import KeptEmbedding
    from luthier.recipe.sections import Training

NORMS = ("norm", "ln_")
FIRST_SCALE, STEADY = 2.0**12, 2000
"""The loss scale to begin with (losses are sums), and the good steps after which it doubles."""


def decayed(name: str, parameter: Tensor) -> bool:
    """Whether weight decay applies: not on biases, norms and other vectors."""
    return parameter.ndim > 1 and not any(mark in part.lower() for part in name.split(".")[-2:] for mark in NORMS)


class Optimizer:
    """AdamW (Loshchilov and Hutter 2019) with everything a step needs around it."""

    def __init__(
        self,
        model: nn.Module,
        options: Training,
        *,
        kept: Iterable[KeptEmbedding] = (),
        scale: Callable[[str], float] = lambda name: 1.0,
        moved: Callable[[], None] = lambda: None,
    ) -> None:
        """`scale` gives a parameter's learning rate over that of the others; `moved` is called after each step, before `clear`."""
        self._kept = list(kept)
        tables = {id(table.weight) for table in self._kept}
        named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
        self._names = [n for n, _ in named]
        self._parameters = [p for _, p in named]
        self._kept_ids = tables
        apart = options.rounding == "masters"
        self._masters = [nn.Parameter(p.detach().float()) if apart and p.dtype != torch.float32 else p for p in self._parameters]
        device = self._parameters[0].device
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for (name, parameter), master in zip(named, self._masters, strict=True):
            groups.setdefault((options.weight_decay if decayed(name, parameter) else 0.0, scale(name)), []).append(master)
        self._moved = moved
        members = [{"params": ms, "weight_decay": decay, "scale": factor} for (decay, factor), ms in groups.items()]
        self._adamw: Any = rule(options, members, device=device)
        self._max_norm = options.max_grad_norm
        self.loss_scale = FIRST_SCALE if any(p.dtype == torch.float16 for p in self._parameters) else 1.0
        """What losses are multiplied with, so that small gradients do not vanish in fp16."""
        self._steady = 0

    def back_off(self) -> bool:
        """Halve the loss scale because a gradient is not finite; whether there was anything to halve."""
        if self.loss_scale <= 1.0:
            return False
        self.loss_scale, self._steady = self.loss_scale / 2, 0
        return True

    def gradient_norm(self, weight: float) -> float:
        """Global norm of the mean gradient: of the accumulated sums divided by `weight`."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        return float(torch.nn.utils.get_total_norm(gradients)) / weight if gradients else 0.0

    def bad_gradients(self) -> list[str]:
        """Names of parameters whose gradient is not finite."""
        pairs = zip(self._names, self._parameters, strict=True)
        return [n for n, p in pairs if p.grad is not None and not bool(torch.isfinite(p.grad).all())]

    def step(self, *, learning_rate: float, weight: float, norm: float) -> None:
        """Move the weights by the mean gradient, scaled down to the largest allowed norm."""
        scale = weight * max(1.0, norm / self._max_norm)
        for group in self._adamw.param_groups:
            group["lr"] = learning_rate * group["scale"]
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            if master is not parameter:
                master.grad = None if parameter.grad is None else parameter.grad.float()
        self._adamw.step(scale)
        moved = [(p, m) for p, m in zip(self._parameters, self._masters, strict=True) if m is not p]
        if moved:
            with torch.no_grad():
                torch._foreach_copy_([p for p, _ in moved], [m for _, m in moved])
        self._moved()
        self._steady += 1
        if self.loss_scale > 1.0 and self._steady == STEADY:
            self.loss_scale, self._steady = self.loss_scale * 2, 0

    @torch.no_grad()
    def follow(self) -> None:
        """Take over weights that were changed from outside."""
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            if master is not parameter and not torch.equal(master.to(parameter.dtype), parameter):
                master.copy_(parameter)

    def clear(self) -> None:
        """Forget the gradients of the update."""
        for table in self._kept:
            table.clear()
        for parameter, master in zip(self._parameters, self._masters, strict=True):
            if id(parameter) not in self._kept_ids:
                parameter.grad = None
            if master is not parameter:
                master.grad = None

    def state_dict(self) -> dict[str, Tensor]:
        """Moments, step counts and masters as named tensors."""
        found: dict[str, Tensor] = {}
        if self.loss_scale > 1.0:
            found["loss_scale"] = torch.tensor([self.loss_scale, float(self._steady)], dtype=torch.float64)
        for name, parameter, master in zip(self._names, self._parameters, self._masters, strict=True):
            for key, value in self._adamw.state.get(master, {}).items():
                found[f"{key}:{name}"] = value.detach() if isinstance(value, Tensor) else torch.tensor(value)
            if master is not parameter:
                found[f"master:{name}"] = master.detach()
        return found

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        """Go on from `state`."""
        if "loss_scale" in state:
            self.loss_scale, self._steady = float(state["loss_scale"][0]), int(state["loss_scale"][1])
        for name, parameter, master in zip(self._names, self._parameters, self._masters, strict=True):
            entries = {key.removesuffix(f":{name}"): value for key, value in state.items() if key.endswith(f":{name}")}
            entries.pop("master", None)
            if entries:
                self._adamw.state[master] = {k: self._restored(k, v, master) for k, v in entries.items()}
            if master is not parameter and f"master:{name}" in state:
                master.copy_(state[f"master:{name}"])

    def _restored(self, key: str, value: Tensor, master: Tensor) -> Tensor | int:
        """A saved entry as the optimizer holds it: 8-bit ones count their steps in a plain number."""
        if key == "step" and not value.is_floating_point():
            return int(value)
        return value.to(master.device).clone()
