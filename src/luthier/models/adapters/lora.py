"""LoRA (Hu et al. 2021) with its kin: rsLoRA, DoRA, LoRA+, PiSSA and other starts; and QLoRA on a quantised base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.models.adapters.injected import Injected

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.lora import LoraOptions

STARTS = {"default": True, "gaussian": "gaussian", "pissa": "pissa", "olora": "olora", "orthogonal": "orthogonal"}
CHANGING = ("pissa", "olora")
"""Starts that take the adapter's share out of the base weights."""


class Lora(Injected):
    """The method."""

    rate_factor, fastest = 15.0, 1e-3
    options: LoraOptions  # type: ignore[assignment]

    def refusal(self, loaded: Loaded) -> str | None:
        """Starts that change the base need it in full precision."""
        if self.options.init in CHANGING and loaded.quantization != "none":
            return f"init {self.options.init} changes the base, which is quantised"
        return super().refusal(loaded)

    def config(self, loaded: Loaded, targets: Sequence[str]) -> Any:
        """PEFT's config."""
        from peft import LoraConfig

        options = self.options
        return LoraConfig(
            r=options.rank,
            lora_alpha=options.alpha or 2 * options.rank,  # type: ignore[arg-type]
            lora_dropout=options.dropout,
            use_rslora=options.rslora,
            use_dora=options.dora,
            init_lora_weights=STARTS[options.init],  # type: ignore[arg-type]
            rank_pattern=dict(options.ranks),
            alpha_pattern={} if options.alpha else {name: 2 * rank for name, rank in options.ranks.items()},
            target_modules=list(targets),
            fan_in_fan_out=False,
        )

    def place(self, loaded: Loaded) -> None:
        """Put them in; where the start took its share out of the base, remember it, so that the difference can be saved."""
        super().place(loaded)
        if self.options.init in CHANGING:
            loaded.begun = {n: p.detach().clone() for n, p in loaded.trunk.named_parameters() if "lora_" in n}

    def rate_scale(self, name: str) -> float:
        """LoRA+: B moves faster than A."""
        return self.options.plus_ratio if "lora_B" in name or "lora_embedding_B" in name else 1.0
