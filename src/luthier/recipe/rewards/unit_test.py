"""Options of tests that a program has to pass."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from luthier.recipe.rewards.options import RewardOptions, Seconds


class UnitTestOptions(RewardOptions):
    """The share of the row's tests that the completion's Python passes, run in a sandbox; a program that hangs or dies fails them."""

    type: Literal["unit_test"] = "unit_test"
    column: str = Field(
        "tests", description="column of the row with the tests: Python with asserts, calls and test_ functions, or a list of such texts"
    )
    grade: Literal["share", "all"] = Field("share", description="the share of the tests that pass, or 1 only where all of them do")
    timeout: Seconds = Field(5.0, description="seconds that one completion may run, and as many of CPU time for each of its processes")
    memory: Annotated[int, Field(ge=32)] = Field(512, description="MiB that each of its processes may have")
    disk: Annotated[int, Field(gt=0)] = Field(16, description="MiB that it may write")
    processes: Annotated[int, Field(gt=0)] = Field(8, description="processes and threads that it may have at once")
    workers: Annotated[int, Field(gt=0)] | None = Field(None, description="completions that run at once; as many as cores where absent")

    @property
    def columns(self) -> tuple[str, ...]:
        """The one with the tests."""
        return (self.column,)
