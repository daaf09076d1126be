"""What the options of every reward share."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from luthier.recipe.fields import regular_expressions

Seconds = Annotated[float, Field(gt=0, le=86400)]


Expression = Annotated[str, AfterValidator(lambda value: regular_expressions([value])[0])]
"""A regular expression."""


class RewardOptions(BaseModel):
    """One of a task's `rewards:`; each reward subclasses it with its own fields."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    type: str
    name: Annotated[str, Field(pattern=r"^\w[\w-]*$")] | None = Field(
        None, description="what it is called in the log; its type where absent"
    )
    weight: Annotated[float, Field(allow_inf_nan=False)] = Field(
        1.0, description="how much it counts in the sum; below 0 it is a penalty, at 0 it is only logged"
    )
    timeout: Seconds = Field(10.0, description="seconds that scoring the completions of one prompt may take")
    max_fault_share: Annotated[float, Field(ge=0, le=1)] = Field(
        0.5, description="training stops where it fails on more than this share of what it is asked at once"
    )

    @property
    def label(self) -> str:
        """The name that it has in the log."""
        return self.name or self.type

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns of the row that it reads, and cannot be without."""
        return ()

    @property
    def parts(self) -> tuple[str, ...]:
        """Figures of each completion that are logged beside the score, as `name.part`."""
        return ()

    @property
    def figures(self) -> tuple[str, ...]:
        """All that is logged of it: its score, as it is, and its parts."""
        return (self.label, *(f"{self.label}.{part}" for part in self.parts))


class AnswerOptions(RewardOptions):
    """What the rewards share that compare an answer in the completion with one in the row."""

    column: str = Field("answer", description="column of the row that holds the right answer; a list of them where several are right")
    extract: Expression | None = Field(
        None,
        description="regular expression that finds the answer in the completion: its last match, of that the first group if it has one",
    )

    @property
    def columns(self) -> tuple[str, ...]:
        """The one with the answer."""
        return (self.column,)
