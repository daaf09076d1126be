"""Options of a function of the user's own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.rewards.options import RewardOptions


class FunctionOptions(RewardOptions):
    """What a Python function says: (prompt, completions, row) -> one score for each completion, or None where it has none."""

    type: Literal["function"] = "function"
    function: Annotated[str, Field(pattern=r"^[\w.]+:\w+$")] = Field(
        description="module:callable, looked for in the working folder too; it gets messages, texts and the row as a dict"
    )
