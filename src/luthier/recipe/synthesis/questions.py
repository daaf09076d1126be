"""Options of questions and answers from documents."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.synthesis.options import Count, SynthesisOptions


class QuestionsOptions(SynthesisOptions):
    """Questions and answers from documents: rows with context, question and answer."""

    type: Literal["questions"] = "questions"
    text: str = Field("text", description="column of the documents")
    passage_words: Count = Field(200, description="words of a document that one request shows")
    answers: Literal["free", "quoted"] = Field(
        "free", description="quoted: leave out answers that do not stand in the passage word for word"
    )
    per_request: Annotated[int, Field(gt=0, le=50)] = Field(3, description="rows that one request asks for")
