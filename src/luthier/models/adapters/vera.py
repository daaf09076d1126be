"""VeRA (Kopiczko et al. 2023): learned scales on random matrices that layers share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.models.adapters.injected import Injected

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe.methods.vera import VeraOptions


class Vera(Injected):
    """The method."""

    rate_factor = 50.0
    options: VeraOptions  # type: ignore[assignment]

    def config(self, loaded: Loaded, targets: Sequence[str]) -> Any:
        """PEFT's config; the random matrices come from the seed and are not saved."""
        from peft import VeraConfig

        options = self.options
        return VeraConfig(
            r=options.rank,
            vera_dropout=options.dropout,
            d_initial=options.scale,
            projection_prng_key=self.seed,
            save_projection=True,
            target_modules=list(targets),
        )
