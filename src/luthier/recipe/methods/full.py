"""Options of full fine-tuning."""

from __future__ import annotations

from typing import Literal

from luthier.recipe.methods.options import MethodOptions


class FullOptions(MethodOptions):
    """Every weight moves."""

    type: Literal["full"] = "full"
