"""BitFit (Ben Zaken et al. 2021): only the biases move, and the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.models.adapters.method import Method, free_head, freeze_all

if TYPE_CHECKING:
    from luthier.models.load import Loaded


class BitFit(Method):
    """The method."""

    rate_factor = 10.0

    def refusal(self, loaded: Loaded) -> str | None:
        """Some architectures (Llama, T5) have no biases."""
        if not any(n.endswith("bias") for n, _ in loaded.model.named_parameters()):
            return f"a {loaded.model.config.model_type} model has no biases"
        return None

    def place(self, loaded: Loaded) -> None:
        """Free the biases."""
        freeze_all(loaded.model)
        for name, parameter in loaded.model.named_parameters():
            if name.rpartition(".")[2] == "bias":
                parameter.requires_grad_(True)
        free_head(loaded)
