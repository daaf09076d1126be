"""Prefix tuning (Li and Liang 2021): learned keys and values before each text, in every layer.

They are handed to a decoder as a key-value cache that is there before the text begins. Such batches are padded.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from luthier.models.adapters.method import ENCODER, Method, free_head, freeze_all
from luthier.models.adapters.virtual import no_room, written
from luthier.models.forward import set_attention, trunk_of

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.prefix import PrefixOptions


class Prefix(Method):
    """The method."""

    rate_factor = 50.0
    adapter = True
    options: PrefixOptions

    def refusal(self, loaded: Loaded) -> str | None:
        """Only decoders read a cache."""
        if loaded.head.kind == "pairs":
            return "an encoder-decoder's two caches are not handed over here; choose prompt or lora"
        if loaded.head.kind == "masked" or "past_key_values" not in _parameters(loaded.model):
            return f"a {loaded.model.config.model_type} model is an encoder, which keeps no keys and values; choose prompt or lora"
        return no_room(self.options.virtual_tokens, loaded)

    def place(self, loaded: Loaded) -> None:
        """Freeze the model, and hand it the prefix at every call."""
        from peft import PrefixTuningConfig
        from peft.tuners.prefix_tuning import PrefixEncoder

        trunk = loaded.trunk
        freeze_all(trunk)
        free_head(loaded)
        torch.manual_seed(self.seed)
        text = loaded.model.config.get_text_config()
        heads = int(getattr(text, "num_key_value_heads", None) or text.num_attention_heads)
        size = int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)
        config = PrefixTuningConfig(
            num_virtual_tokens=self.options.virtual_tokens,
            token_dim=heads * size,
            num_transformer_submodules=1,
            num_layers=text.num_hidden_layers,
            num_attention_heads=heads,
            prefix_projection=self.options.projection,
            encoder_hidden_size=self.options.hidden_size,
        )
        encoder: nn.Module = PrefixEncoder(config)  # type: ignore[no-untyped-call]
        if not self.options.projection:
            nn.init.normal_(encoder.get_parameter("embedding.weight"), std=0.02)
        attach(loaded, config, encoder)


def attach(loaded: Loaded, config: Any, encoder: nn.Module) -> None:
    """Put a prefix on a model: every call that brings no cache starts from it."""
    from luthier.models.forward import Layout

    model = loaded.model
    trunk = loaded.trunk
    trunk.add_module(ENCODER, encoder)
    trunk.peft_config = {"default": config}
    count = config.num_virtual_tokens

    def begin(_: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        given = [*args, kwargs.get("input_ids"), kwargs.get("inputs_embeds")]
        ids = next(value for value in given if value is not None)
        ids = ids[..., 0] if ids.ndim == 3 else ids
        mask = kwargs.get("attention_mask")
        if kwargs.get("past_key_values") is None:
            kwargs["past_key_values"] = cache_of(trunk, len(ids))
            mask = torch.ones_like(ids) if mask is None else mask
        if mask is not None:
            kwargs["attention_mask"] = torch.cat([mask.new_ones(len(mask), count), mask], 1)
        if kwargs.get("position_ids") is not None:
            kwargs["position_ids"] = kwargs["position_ids"] + count
        return args, kwargs

    trunk_of(model).register_forward_pre_hook(begin, with_kwargs=True)
    set_attention(model, None)
    loaded.layout = Layout(**{**vars(loaded.layout), "kind": "padded", "reason": "prefix tuning puts keys and values before each text"})
    loaded.max_length -= count


def cache_of(trunk: Any, rows: int) -> Any:
    """The prefix as a key-value cache for so many rows."""
    from transformers import DynamicCache

    config = trunk.peft_config["default"]
    values: Tensor = written(trunk).to(next(p for n, p in trunk.named_parameters() if ENCODER not in n).dtype)
    shape = (config.num_virtual_tokens, config.num_layers, 2, config.num_attention_heads, -1)
    layers = values.view(*shape).permute(1, 2, 3, 0, 4)[:, :, None].expand(-1, -1, rows, -1, -1, -1)
    return DynamicCache([(layer[0], layer[1]) for layer in layers])


def _parameters(model: Any) -> set[str]:
    import inspect

    reads = set(inspect.signature(trunk_of(model).forward).parameters)
    encoder = not getattr(model.config, "is_decoder", True) and "use_cache" in reads and not hasattr(model, "score")
    return reads - {"past_key_values"} if encoder and model.config.model_type in _encoders() else reads


def _encoders() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    return set(MASKED)
