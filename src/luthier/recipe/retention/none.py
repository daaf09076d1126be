"""Options of training without protection."""

from __future__ import annotations

from typing import Literal

from luthier.recipe.retention.options import RetentionOptions


class NoneOptions(RetentionOptions):
    """Nothing protects what the model could do before."""

    type: Literal["none"] = "none"
