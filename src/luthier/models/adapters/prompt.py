"""Prompt tuning (Lester et al. 2021): learned embeddings before each text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from luthier.models.adapters.virtual import Virtual

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.prompt import PromptOptions


class Prompt(Virtual):
    """The method."""

    options: PromptOptions  # type: ignore[assignment]

    def encoder(self, loaded: Loaded, table: nn.Embedding) -> tuple[Any, nn.Module]:
        """Embeddings that start from those of a text, repeated to fill, or of random tokens."""
        from peft import PromptTuningConfig
        from peft.tuners.prompt_tuning import PromptEmbedding

        count = self.options.virtual_tokens
        config = PromptTuningConfig(
            num_virtual_tokens=count, token_dim=table.embedding_dim, num_transformer_submodules=1, num_layers=1, num_attention_heads=1
        )
        encoder = PromptEmbedding(config, table)  # type: ignore[no-untyped-call]
        ids = torch.randint(table.num_embeddings, (count,))
        if self.options.start:
            said = loaded.tokenizer(self.options.start, add_special_tokens=False).input_ids or [0]
            ids = torch.tensor((said * count)[:count])
        with torch.no_grad():
            encoder.embedding.weight.copy_(table.weight[ids])
        return config, encoder
