"""Options of synonyms from a model."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from luthier.recipe.augment.options import AugmentOptions, Rate


class NeighboursOptions(AugmentOptions):
    """Words replaced by those whose input embeddings in an encoder are nearest, where the text keeps its meaning by the encoder."""

    needs_model: ClassVar[bool] = True
    type: Literal["neighbours"] = "neighbours"
    model: str = Field("minilm", description="the encoder: an alias, a run's or another model's folder, or an id")
    rate: Rate = Field(0.2, description="share of the words that are replaced, one at least")
    among: Annotated[int, Field(gt=0, le=100)] = Field(10, description="so many nearest words are drawn from")
    min_similarity: Annotated[float, Field(ge=-1, le=1)] = Field(0.4, description="cosine that a word must have with the one it replaces")
    min_text_similarity: Annotated[float, Field(ge=-1, le=1)] = Field(
        0.8, description="cosine that the text's vector must have with that of the text it was made from"
    )
