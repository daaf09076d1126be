"""AdamW in three memories: moments in fp32, moments in 8 bits, and bf16 weights without fp32 masters.

Enters: gradients as sums, and what to divide them by. Leaves: moved weights. All three are AdamW (Loshchilov and
Hutter 2019); they differ in what they keep between steps.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.adamw import adamw

from luthier.errors import ModelError
from luthier.registry import require

if TYPE_CHECKING:
    from luthier.recipe.sections import Training


def rule(options: Training, groups: list[dict[str, Any]], *, device: torch.device) -> torch.optim.Optimizer:
    """The optimizer that the options name; its `step(scale)` divides gradients by `scale`.

    Raises ModelError for one that the device does not have, DependencyError where bitsandbytes is missing.
    """
    shared: dict[str, Any] = {"lr": 0.0, "betas": options.betas, "eps": options.epsilon}
    if options.optimizer != "adamw":
        return _eight_bit(options.optimizer, groups, device, shared)
    if options.rounding == "stochastic":
        return StochasticAdamW(groups, **shared)
    fused = torch.optim.AdamW(groups, **shared, fused=device.type in ("cpu", "cuda", "mps"))
    return _scaled(fused, lambda scale: setattr(fused, "grad_scale", torch.tensor(scale, device=device)))


def _eight_bit(name: str, groups: list[dict[str, Any]], device: torch.device, shared: dict[str, Any]) -> torch.optim.Optimizer:
    """Moments in 8 bits, block by block (Dettmers et al. 2021); small tensors keep fp32 ones."""
    if name == "paged_adamw8bit" and device.type != "cuda":
        raise ModelError(f"pages its state on CUDA only, not on {device.type}", where="training.optimizer", remedy="set it to adamw8bit")
    library = require("bitsandbytes.optim", extra="quantization", purpose="8-bit optimizer states")
    made = (library.PagedAdamW8bit if name == "paged_adamw8bit" else library.AdamW8bit)(groups, **shared)

    def divide(scale: float) -> None:
        gradients = [p.grad for group in made.param_groups for p in group["params"] if p.grad is not None]
        if gradients:
            torch._foreach_div_(gradients, scale)

    return _scaled(made, divide)


def _scaled(optimizer: Any, before: Callable[[float], None]) -> torch.optim.Optimizer:
    """The same optimizer, whose `step` takes the scale."""
    plain = optimizer.step

    def step(scale: float = 1.0) -> None:
        before(scale)
        plain()

    optimizer.step = step
    return optimizer  # type: ignore[no-any-return]


class StochasticAdamW(torch.optim.Optimizer):
    """AdamW over bf16 weights that are rounded up or down by chance, so that small updates add up on average.

    A weight between two bf16 values takes the nearer one with the larger probability (Gupta et al. 2015). One tensor
    at a time is widened to fp32; the draws come from torch's generator, which the loop seeds for each update.
    """

    def __init__(self, groups: list[dict[str, Any]], *, lr: float, betas: tuple[float, float], eps: float) -> None:
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})

    @torch.no_grad()
    def step(self, scale: float = 1.0) -> None:  # type: ignore[override]
        """Move every weight that has a gradient."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state = self.state[weight]
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32)
                    for name in ("exp_avg", "exp_avg_sq"):
                        state[name] = torch.zeros_like(weight, dtype=torch.float32)
                wide = weight.float() if weight.dtype != torch.float32 else weight
                adamw(
                    [wide],
                    [weight.grad.float() / scale],
                    [state["exp_avg"]],
                    [state["exp_avg_sq"]],
                    [],
                    [state["step"]],
                    amsgrad=False,
                    beta1=group["betas"][0],
                    beta2=group["betas"][1],
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                    maximize=False,
                )
                if wide is not weight:
                    weight.copy_(stochastically_rounded(wide))


def stochastically_rounded(wide: Tensor) -> Tensor:
    """bf16 values of an fp32 tensor, each rounded to one of its two neighbours in proportion to nearness."""
    bits = wide.view(torch.int32)
    noise = torch.randint(0, 1 << 16, bits.shape, dtype=torch.int32, device=bits.device)
    return ((bits + noise) & -65536).view(torch.float32).to(torch.bfloat16)
