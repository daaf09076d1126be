"""Options of the embedding task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from luthier.recipe.tasks.options import TaskOptions

RANKING = ("pairs", "triplets", "classes")
"""Kinds in which a text is to be found among others."""


class EmbeddingOptions(TaskOptions):
    """A vector for a text, so that texts which belong together are near each other."""

    type: Literal["embedding"] = "embedding"
    kind: Literal["auto", "pairs", "triplets", "scored", "classes"] = Field(
        "auto",
        description="pairs (data.text and its positive, data.text_pair), triplets (negatives too), scored (two texts and a number, "
        "data.label), classes (texts with a class, data.label); auto: by the columns there are",
    )
    negatives: list[str] | None = Field(
        None, description="columns of texts that do not belong to data.text; where absent: negative, negative_1, negative_2 ..."
    )
    loss: Literal["auto", "in_batch", "cosent", "cosine"] = Field(
        "auto",
        description="in_batch (the other positives of the batch are negatives) for pairs, triplets and classes; "
        "cosent (the order of the scores) or cosine (the scores themselves) for scored; auto: in_batch, cosent",
    )
    partners: Annotated[int, Field(gt=0)] = Field(4, description="classes: with how many others of its class each text is paired")
    temperature: Annotated[float, Field(gt=0)] = Field(0.05, description="cosines are divided by it, in in_batch and cosent")
    symmetric: bool = Field(False, description="in_batch: positives have to find their texts too")
    pooling: Literal["auto", "mean", "first", "last"] = Field(
        "auto", description="which hidden states make the vector; auto: as the model's 1_Pooling says, else mean"
    )
    normalize: bool = Field(True, description="vectors that are given out have length 1")

    @model_validator(mode="after")
    def _fitting(self) -> EmbeddingOptions:
        if self.kind != "auto" and self.loss != "auto" and (self.loss == "in_batch") != (self.kind in RANKING):
            raise ValueError(f"loss: {self.loss} is not for {self.kind}: {'in_batch' if self.kind in RANKING else 'cosent or cosine'} is")
        if self.negatives and self.kind not in ("auto", "triplets"):
            raise ValueError(f"negatives are for triplets, not for {self.kind}")
        return self
