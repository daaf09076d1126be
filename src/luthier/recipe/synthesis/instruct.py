"""Options of self-instruct."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.synthesis.options import Count, SynthesisOptions


class InstructOptions(SynthesisOptions):
    """Further tasks like some seed tasks (columns instruction, input, output)."""

    type: Literal["instruct"] = "instruct"
    instruction: str = Field("instruction", description="column of the tasks")
    input: str = Field("input", description="column of what a task is about; may be absent from the file")
    output: str = Field("output", description="column of the answers")
    examples: Count = Field(4, description="tasks that each request shows, one in three of them made before")
    per_request: Annotated[int, Field(gt=0, le=50)] = Field(5, description="rows that one request asks for")
