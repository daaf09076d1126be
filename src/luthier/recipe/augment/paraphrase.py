"""Options of paraphrases."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from luthier.recipe.address import Endpoint
from luthier.recipe.augment.options import AugmentOptions
from luthier.recipe.fields import Prompt

INSTRUCTION = """Say the following text in other words. Keep its meaning, its tone and its language. \
Reply with the new text alone.

{text}"""


class ParaphraseOptions(AugmentOptions):
    """Texts said in other words by a model: a run or any other model here, or an OpenAI-compatible endpoint."""

    needs_model: ClassVar[bool] = True
    type: Literal["paraphrase"] = "paraphrase"
    model: str | None = Field(None, description="a model that writes: a run, a folder or an alias")
    endpoint: Endpoint | None = Field(None, description="instead: an OpenAI-compatible chat endpoint (url, model, token_env, timeout ...)")
    instruction: Prompt = Field(INSTRUCTION, description="what it is asked; {text} is the text")
    temperature: Annotated[float, Field(ge=0, le=2)] = Field(0.8, description="0 always takes the likeliest word")
    max_tokens: Annotated[int, Field(gt=0)] = Field(256, description="longest answer in tokens")

    @model_validator(mode="after")
    def _one_of_them(self) -> ParaphraseOptions:
        if (self.model is None) == (self.endpoint is None):
            raise ValueError("give either a model or an endpoint")
        return self
