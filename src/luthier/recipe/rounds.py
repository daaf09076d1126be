"""Rounds: draw answers, have them rated, learn what is preferred, compare; and again from there."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from luthier.recipe.rewards import Rewards


class Rounds(BaseModel):
    """The whole loop as one recipe, whose data are prompts and whose task is preference."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    count: Annotated[int, Field(gt=0)] = Field(2, description="rounds, each from the model of the one before")
    answers: Annotated[int, Field(ge=2)] = Field(4, description="answers drawn for each prompt; the best and the worst are a pair")
    prompts: Annotated[int, Field(gt=0)] | None = Field(
        None, description="prompts a round, drawn with the seed, all before any again; all where absent"
    )
    temperature: Annotated[float, Field(gt=0)] = Field(1.0, description="at which answers are drawn")
    rewards: Rewards = Field([], description="who rates: rewards, as in the task policy; they compare the models too")
    store: str | None = Field(
        None, description="or people: the file of `luthier feedback`, where two answers to each prompt are judged; training waits for them"
    )

    @model_validator(mode="after")
    def _somebody_rates(self) -> Rounds:
        if not self.rewards and self.store is None:
            raise ValueError("nobody rates: give rewards, or the store in which people judge")
        if self.store is not None and self.answers != type(self).model_fields["answers"].default:
            raise ValueError("people judge two answers at a time: take answers out")
        return self
