"""What the options of every stage of the data workshop share."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from luthier.recipe.fields import Strings

Columns = Annotated[Strings, Field(min_length=1)]


class StageOptions(BaseModel):
    """One of `data.clean`; each stage subclasses it with its own fields."""

    model_config = ConfigDict(extra="forbid", validate_assignment=True, validate_default=True)

    type: str

    @property
    def sees_all(self) -> bool:
        """Whether the stage must have seen every row before it can say what becomes of one."""
        return False


class TextStageOptions(StageOptions):
    """What the stages share that change texts."""

    columns: Columns | None = Field(None, description="columns it looks at; every column of texts where absent")


class JudgingOptions(StageOptions):
    """What the stages share that judge a row by its text."""

    columns: Columns | None = Field(
        None, description="columns it looks at; the text (and the text of a pair) where absent, every column of texts where there is none"
    )
