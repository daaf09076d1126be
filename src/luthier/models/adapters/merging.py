"""Adapters into the weights they stand beside: afterwards the model is plain again, and answers the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.errors import ModelError

if TYPE_CHECKING:
    from luthier.models.load import Loaded


def merge(loaded: Loaded) -> None:
    """Add every adapter to its layer's weights, in place. Raises ModelError for learned tokens, which have none."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import ModulesToSaveWrapper

    trunk = loaded.trunk
    config = trunk.peft_config["default"]  # type: ignore[index]
    if config.is_prompt_learning:
        raise ModelError(
            "learned tokens have no weights to be merged into", where="merge", remedy="use the model with its adapter folder as it is"
        )
    for name, module in list(trunk.named_modules()):
        if isinstance(module, (BaseTunerLayer, ModulesToSaveWrapper)):
            parent, _, attribute = name.rpartition(".")
            if isinstance(module, BaseTunerLayer):
                module.merge(safe_merge=True)
                plain = module.get_base_layer()
            else:
                plain = module.modules_to_save["default"]
            setattr(trunk.get_submodule(parent), attribute, plain)
    del trunk.peft_config
    for parameter in trunk.parameters():
        parameter.requires_grad_(parameter.is_floating_point())
