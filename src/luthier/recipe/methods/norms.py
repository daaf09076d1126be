"""Options of norm tuning."""

from __future__ import annotations

from typing import Literal

from luthier.recipe.methods.options import MethodOptions


class NormsOptions(MethodOptions):
    """Only the normalisation layers move, and the head (Zhao et al. 2023)."""

    type: Literal["norms"] = "norms"
