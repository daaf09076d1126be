"""Options of the exact answer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.rewards.options import AnswerOptions


class ExactOptions(AnswerOptions):
    """1 where the completion, or what is extracted from it, is the row's answer; else 0."""

    type: Literal["exact"] = "exact"
    normalize: list[Literal["space", "case", "punctuation", "articles"]] = Field(
        default=["space"], description="what makes no difference: runs of space, case, punctuation, English articles"
    )
