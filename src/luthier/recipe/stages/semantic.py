"""Options of the stages that compare rows by their vectors: semantic duplicates and irrelevant rows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.stages.duplicates import RepeatOptions
from luthier.recipe.stages.options import JudgingOptions

Encoder = Annotated[str, Field(min_length=1)]
MODEL = "gives the vectors: a run, a folder, an alias or a hub id; of a longer text than it reads, the beginning counts"


class SemanticDuplicatesOptions(RepeatOptions):
    """Rows that say nearly the same as an earlier row in other words are dropped."""

    type: Literal["semantic_duplicates"] = "semantic_duplicates"
    model: Encoder = Field("minilm", description=MODEL)
    threshold: Annotated[float, Field(ge=0.5, le=1)] = Field(
        0.95, description="the least cosine of two vectors that makes two rows duplicates"
    )


class IrrelevantOptions(JudgingOptions):
    """Rows that are like no other, of another topic or language or garbage, are dropped; the fates rank them."""

    type: Literal["irrelevant"] = "irrelevant"
    model: Encoder = Field("minilm", description=MODEL)
    neighbours: Annotated[int, Field(ge=1)] = Field(10, description="nearest rows from which the mean distance is taken")
    above: Annotated[float, Field(gt=0)] = Field(
        5.0, description="how many robust standard deviations above the usual that distance must be"
    )

    @property
    def sees_all(self) -> bool:
        """Rows are compared with each other."""
        return True
