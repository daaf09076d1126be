"""Options of the parsing task."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.tasks.options import TaskOptions


class ParsingOptions(TaskOptions):
    """Dependency parsing: for each word its head, and the relation between them."""

    type: Literal["parsing"] = "parsing"
    words: str = Field("words", description="column of the words; CoNLL-U files have it")
    heads: str = Field("head", description="column of each word's head: its number from 1, or 0 for the root")
    relations: str = Field("deprel", description="column of each word's relation to its head")
    subtypes: bool = Field(True, description="learn and score nmod:poss; false: nmod, the part before the colon")
    arc_width: Annotated[int, Field(gt=0)] = Field(400, description="numbers by which a word is seen as a head, and as a dependent")
    label_width: Annotated[int, Field(gt=0)] = Field(100, description="the same, for the relation of an arc")
    dropout: Annotated[float, Field(ge=0, lt=1)] = Field(0.33, description="dropout in the head; the model's own is model.dropout")
    head_rate: Annotated[float, Field(gt=0)] = Field(
        10.0, description="the head, which is new, learns so many times as fast as a whole model"
    )
