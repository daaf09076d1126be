"""AdaLoRA (Zhang et al. 2023): adapters in the form of a singular value decomposition, pruned as training goes on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luthier.models.adapters.injected import Injected

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.adalora import AdaLoraOptions

UNKNOWN = 1_000_000
"""Updates that PEFT is told of until the plan is made."""
SCORES = ("ipt", "exp_avg_ipt", "exp_avg_unc")


class AdaLora(Injected):
    """The method, with PEFT's allocator of ranks."""

    rate_factor, fastest = 15.0, 1e-3
    options: AdaLoraOptions  # type: ignore[assignment]

    def goes_on(self, loaded: Loaded) -> bool:
        """Ranks that have shrunk do not grow again."""
        return False

    def config(self, loaded: Loaded, targets: Sequence[str]) -> Any:
        """PEFT's config; the schedule is set when the number of updates is known."""
        from peft import AdaLoraConfig

        options = self.options
        return AdaLoraConfig(
            init_r=options.initial_rank,
            target_r=options.rank,
            lora_alpha=options.alpha,  # type: ignore[arg-type]
            lora_dropout=options.dropout,
            deltaT=options.every,
            tinit=0,
            tfinal=0,
            total_step=UNKNOWN,
            orth_reg_weight=options.orthogonality or 1.0,
            target_modules=list(targets),
        )

    def before_update(self, model: nn.Module, step: int, total: int) -> None:
        """Tell the allocator how long the training is."""
        config, allocator = self.tuner.peft_config["default"], self.tuner.rankallocator
        if config.total_step != total:
            config.tinit, config.tfinal = int(self.options.warmup * total), int(self.options.settle * total)
            allocator.set_total_step(total)
            config.total_step = total

    def after_update(self, model: nn.Module, step: int, total: int) -> None:
        """Score every direction by its gradient, and drop the least."""
        self.tuner.update_and_allocate(step)

    def penalty(self, model: nn.Module) -> Tensor | None:
        """How far the directions are from orthogonal: the mean of |P P' - I| over matrices (eq. 4)."""
        if not self.options.orthogonality:
            return None
        found = []
        for name, parameter in model.named_parameters():
            if "lora_A" in name or "lora_B" in name:
                gram = parameter @ parameter.T if "lora_A" in name else parameter.T @ parameter
                found.append(torch.linalg.matrix_norm(gram - torch.eye(len(gram), device=gram.device, dtype=gram.dtype)))
        return self.options.orthogonality * torch.stack(found).mean()

    def state(self) -> dict[str, Tensor]:
        """The allocator's scores and masks, which are in no weight."""
        allocator = self.tuner.rankallocator
        found = {f"{kind}:{n}": t for kind in SCORES for n, t in getattr(allocator, kind, {}).items()}
        pattern = self.tuner.peft_config["default"].rank_pattern or {}
        return found | {f"mask:{n}": torch.tensor(mask, dtype=torch.uint8) for n, mask in pattern.items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put them back."""
        allocator, config = self.tuner.rankallocator, self.tuner.peft_config["default"]
        for kind in SCORES:
            setattr(allocator, kind, {n.partition(":")[2]: t for n, t in state.items() if n.startswith(f"{kind}:")})
        pattern = {n.partition(":")[2]: t.bool().tolist() for n, t in state.items() if n.startswith("mask:")}
        config.rank_pattern = pattern or config.rank_pattern
