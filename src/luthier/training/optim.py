"""Gradients to weights: fused AdamW over decayed and undecayed parameters, with fp32 masters.

Enters: gradients, as sums over the batches of an update. Leaves: moved weights. Scaling (division by
the update's weight, and clipping) happens inside the optimizer's one pass over memory. Nothing is
moved when the gradient is not finite.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    from luthier.models.embedding import KeptEmbedding
    from luthier.recipe.sections import Training

NORMS = ("norm", "ln_")


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
        self._masters = [p if p.dtype == torch.float32 else nn.Parameter(p.detach().float()) for p in self._parameters]
        device = self._parameters[0].device
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for (name, parameter), master in zip(named, self._masters, strict=True):
            groups.setdefault((options.weight_decay if decayed(name, parameter) else 0.0, scale(name)), []).append(master)
        self._moved = moved
        self._adamw = torch.optim.AdamW(
            [{"params": members, "weight_decay": decay, "scale": factor} for (decay, factor), members in groups.items()],
            lr=0.0,
            betas=options.betas,
            eps=options.epsilon,
            fused=device.type in ("cpu", "cuda", "mps"),
        )
        self._max_norm = options.max_grad_norm

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
        self._adamw.grad_scale = torch.tensor(scale, device=self._masters[0].device)  # type: ignore[attr-defined]
        self._adamw.step()
        moved = [(p, m) for p, m in zip(self._parameters, self._masters, strict=True) if m is not p]
        if moved:
            with torch.no_grad():
                torch._foreach_copy_([p for p, _ in moved], [m for _, m in moved])
        self._moved()

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
        for name, parameter, master in zip(self._names, self._parameters, self._masters, strict=True):
            for key, value in self._adamw.state.get(master, {}).items():
                found[f"{key}:{name}"] = value.detach()
            if master is not parameter:
                found[f"master:{name}"] = master.detach()
        return found

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Tensor]) -> None:
        for name, parameter, master in zip(self._names, self._parameters, self._masters, strict=True):
            entries = {key: state[f"{key}:{name}"] for key in ("step", "exp_avg", "exp_avg_sq") if f"{key}:{name}" in state}
            if entries:
                self._adamw.state[master] = {k: v.to(master.device).clone() for k, v in entries.items()}
            if master is not parameter and f"master:{name}" in state:
                master.copy_(state[f"master:{name}"])
