"""Options of the chat task."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from luthier.recipe.fields import Strings
from luthier.recipe.tasks.options import WritingOptions

ChatFormat = Literal["messages", "sharegpt", "prompt_completion", "alpaca"]
Role = Literal["messages", "tools", "system", "prompt", "completion", "instruction", "input", "output"]


class ChatOptions(WritingOptions):
    """Learn to answer in conversations: instructions, several turns, tools."""

    type: Literal["chat"] = "chat"
    format: Literal["auto"] | ChatFormat = Field("auto", description="how rows hold conversations; recognised by their columns where auto")
    columns: dict[Role, str] = Field(default_factory=dict, description="where a column has another name, e.g. prompt: question")
    graded: Literal["assistant", "last", "all"] = Field(
        "assistant", description="learned: assistant turns, the last of them, or every token"
    )
    system: str | None = Field(None, description="system message put before conversations that have none")
    template: str | None = Field(None, description="file with a chat template, instead of the model's own")
    scorers: Strings = Field(
        default_factory=list, description="your own scores: module:callable of (prediction, reference) giving a number"
    )
