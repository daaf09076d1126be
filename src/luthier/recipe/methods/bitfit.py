"""Options of BitFit."""

from __future__ import annotations

from typing import Literal

from luthier.recipe.methods.options import MethodOptions


class BitFitOptions(MethodOptions):
    """Only the biases move, and the head (Ben Zaken et al. 2021)."""

    type: Literal["bitfit"] = "bitfit"
