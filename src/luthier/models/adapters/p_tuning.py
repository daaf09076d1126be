"""P-tuning (Liu et al. 2021): embeddings before each text, written by a small network."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from luthier.models.adapters.virtual import Virtual

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.p_tuning import PTuningOptions


class PTuning(Virtual):
    """The method. What the network writes is saved; the network itself is only needed to train."""

    rate_factor = 20.0
    options: PTuningOptions  # type: ignore[assignment]

    def encoder(self, loaded: Loaded, table: nn.Embedding) -> tuple[Any, nn.Module]:
        """PEFT's network."""
        from peft import PromptEncoderConfig
        from peft.tuners.p_tuning import PromptEncoder

        config = PromptEncoderConfig(
            num_virtual_tokens=self.options.virtual_tokens,
            token_dim=table.embedding_dim,
            num_transformer_submodules=1,
            num_layers=1,
            num_attention_heads=1,
            encoder_reparameterization_type=self.options.network.upper(),  # type: ignore[arg-type]
            encoder_hidden_size=self.options.hidden_size,
        )
        return config, PromptEncoder(config)  # type: ignore[no-untyped-call]
