"""Norm tuning (Zhao et al. 2023): only the normalisation layers move, and the head."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import nn

from luthier.models.adapters.method import Method, free_head, freeze_all

if TYPE_CHECKING:
    from luthier.models.load import Loaded


class Norms(Method):
    """The method."""

    rate_factor = 10.0

    def refusal(self, loaded: Loaded) -> str | None:
        """Every transformer has norms; a few keep no weights in them."""
        return None if any(_is_norm(m) for m in loaded.model.modules()) else "its norms have no weights"

    def place(self, loaded: Loaded) -> None:
        """Free the norms."""
        freeze_all(loaded.model)
        for module in loaded.model.modules():
            if _is_norm(module):
                for parameter in module.parameters(recurse=False):
                    parameter.requires_grad_(True)
        free_head(loaded)


def _is_norm(module: nn.Module) -> bool:
    return "norm" in type(module).__name__.lower() and any(True for _ in module.parameters(recurse=False))
