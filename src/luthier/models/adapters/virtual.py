"""What prompt tuning and p-tuning share: learned tokens before each text.

They get the ids above the vocabulary, so that they are tokens like any other to batches, positions, attention,
pooling and generation; the embedding table alone is told where to look them up. PEFT's own prompt encoders
hold the weights.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor, nn

from luthier.models.adapters.method import ENCODER, Method, free_head, freeze_all

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.options import VirtualOptions


class Virtual(Method):
    """The part that is the same for both."""

    rate_factor = 100.0
    adapter = True
    options: VirtualOptions

    def encoder(self, loaded: Loaded, table: nn.Embedding) -> tuple[Any, nn.Module]:
        """PEFT's config and prompt encoder for a table of embeddings."""
        raise NotImplementedError

    def refusal(self, loaded: Loaded) -> str | None:
        """Texts get shorter by the learned tokens."""
        if loaded.head.kind == "masked":
            return "the words to fill in keep their places; choose lora"
        return no_room(self.options.virtual_tokens, loaded)

    def place(self, loaded: Loaded) -> None:
        """Freeze the model, and let its embeddings find the learned tokens."""
        trunk = loaded.trunk
        freeze_all(trunk)
        free_head(loaded)
        torch.manual_seed(self.seed)
        config, encoder = self.encoder(loaded, read_table(loaded))
        attach(loaded, config, encoder)


def no_room(count: int, loaded: Loaded) -> str | None:
    """Why so many learned tokens are too many; None where they are not."""
    if count < loaded.max_length - 1:
        return None
    return f"{count} learned tokens leave no room in the {loaded.max_length} that the model takes"


def attach(loaded: Loaded, config: Any, encoder: nn.Module) -> None:
    """Put a prompt encoder on a model: its ids go before each text from now on."""
    trunk = loaded.trunk
    table = read_table(loaded)
    rows, count = table.num_embeddings, config.num_virtual_tokens
    trunk.add_module(ENCODER, encoder)
    trunk.peft_config = {"default": config}

    def known(_: nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
        return (inputs[0].clamp_max(rows - 1), *inputs[1:])

    ids: list[Tensor] = []

    def remember(_: nn.Module, inputs: tuple[Any, ...]) -> None:
        ids[:] = [inputs[0]]

    def learned(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        asked = ids.pop()
        places = asked >= rows
        if not places.any():
            return output
        found = written(trunk).to(output.dtype)
        return output.masked_scatter(places[..., None], found.index_select(0, asked[places] - rows))

    table.register_forward_pre_hook(remember)
    table.register_forward_pre_hook(known)
    table.register_forward_hook(learned)
    loaded.virtual = tuple(range(rows, rows + count))
    loaded.max_length -= count


def read_table(loaded: Loaded) -> nn.Embedding:
    """The embeddings of what the model reads: an encoder-decoder has others for what it writes."""
    reader = loaded.trunk.get_encoder() if loaded.head.kind == "pairs" else loaded.trunk
    return cast(nn.Embedding, reader.get_input_embeddings())


def written(trunk: Any) -> Tensor:
    """The learned tokens' embeddings, (count, width): what plain PEFT keeps of them."""
    config, encoder = trunk.peft_config["default"], trunk.get_submodule(ENCODER)
    if config.inference_mode:
        return encoder.embedding.weight
    tokens = torch.arange(config.num_virtual_tokens, device=next(encoder.parameters()).device)
    return encoder(tokens[None])[0]
