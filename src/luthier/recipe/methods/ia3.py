"""Options of IA3."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.fields import Strings
from luthier.recipe.methods.options import MethodOptions


class Ia3Options(MethodOptions):
    """A learned factor for each feature of keys, values and feed-forward layers (Liu et al. 2022)."""

    type: Literal["ia3"] = "ia3"
    target_modules: Literal["auto"] | Strings = Field("auto", description="layers that are scaled; auto: keys, values, feed-forward")
    feedforward_modules: Literal["auto"] | Strings = Field("auto", description="those of them whose input is scaled instead of the output")
