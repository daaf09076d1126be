"""Orthogonal fine-tuning (Qiu et al. 2023): weights turned by learned rotations."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.models.adapters.injected import Injected

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.oft import OftOptions


class Oft(Injected):
    """The method."""

    rate_factor = 5.0
    options: OftOptions  # type: ignore[assignment]

    def config(self, loaded: Loaded, targets: Sequence[str]) -> Any:
        """PEFT's config, with a block size that divides every width."""
        from peft import OFTConfig

        block = math.gcd(self.options.block_size, *self._widths(loaded))
        return OFTConfig(r=0, oft_block_size=block, target_modules=list(targets))

    def refusal(self, loaded: Loaded) -> str | None:
        """Turning needs blocks of two features or more."""
        if (reason := super().refusal(loaded)) is not None:
            return reason
        return (
            None if math.gcd(self.options.block_size, *self._widths(loaded)) > 1 else "its widths have no divisor in common with block_size"
        )

    def _widths(self, loaded: Loaded) -> list[int]:
        """Input features of every layer that is turned."""
        modules: list[Any] = [loaded.model.get_submodule(n) for n in self.targets(loaded)]
        return [int(getattr(m, "in_features", 0) or m.weight.shape[0]) for m in modules]
