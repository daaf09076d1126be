"""IA3 (Liu et al. 2022): learned factors on keys, values and feed-forward features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.models.adapters.injected import Injected, find_targets, linears

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.ia3 import Ia3Options

KEYS_AND_VALUES = ("key", "value", "k_proj", "v_proj", "k_lin", "v_lin", "k", "v", "c_attn", "qkv_proj", "query_key_value", "Wqkv")


class Ia3(Injected):
    """The method."""

    rate_factor = 25.0
    options: Ia3Options  # type: ignore[assignment]

    def targets(self, loaded: Loaded) -> list[str]:
        """Keys, values, and what is scaled in feed-forward layers."""
        if self.options.target_modules != "auto":
            return [*find_targets(loaded.model, self.options.target_modules), *self.feedforward(loaded)]
        attention = [n for n in find_targets(loaded.model, "attention") if n.rpartition(".")[2] in KEYS_AND_VALUES]
        return [*attention, *self.feedforward(loaded)]

    def feedforward(self, loaded: Loaded) -> list[str]:
        """The layers whose input is scaled: those that lead from the wide inside of a feed-forward block back."""
        if self.options.feedforward_modules != "auto":
            return find_targets(loaded.model, self.options.feedforward_modules)
        width = loaded.model.config.get_text_config().hidden_size
        attention = set(find_targets(loaded.model, "attention"))
        return [n for n, m in linears(loaded.model).items() if n not in attention and _shape(m) == (True, width)]

    def config(self, loaded: Loaded, targets: Sequence[str]) -> Any:
        """PEFT's config."""
        from peft import IA3Config

        inner = {n.removeprefix("trunk.") for n in self.feedforward(loaded)} & set(targets)
        return IA3Config(target_modules=list(dict.fromkeys(targets)), feedforward_modules=sorted(inner))


def _shape(module: Any) -> tuple[bool, int]:
    """Whether a layer narrows, and to what."""
    if hasattr(module, "in_features"):
        return module.in_features > module.out_features, int(module.out_features)
    return module.weight.shape[0] > module.weight.shape[1], int(module.weight.shape[1])  # GPT-2's Conv1D lies the other way
