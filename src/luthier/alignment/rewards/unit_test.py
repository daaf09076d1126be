"""Tests that a program has to pass."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from luthier.alignment.reading import fenced
from luthier.alignment.rewards.reward import Asked, Marks, Messages, Row, cell
from luthier.alignment.sandbox.sandbox import Limits, Step, examine, found_way, steps
from luthier.errors import LuthierError, RewardError
from luthier.recipe.rewards.unit_test import UnitTestOptions

LANGUAGES = ("python", "py", "python3")


class UnitTestReward:
    """The share of the tests that it passes."""

    def __init__(self, options: UnitTestOptions, *, folder: Path, where: str) -> None:
        """Raises RewardError where no program can be run in a sandbox."""
        self.options = options
        self.limits = Limits(options.timeout, options.memory << 20, options.disk << 20, options.processes)
        try:
            self.notes = [f"in the sandbox of this machine {fact}" for fact in found_way().lacks]
        except OSError as error:
            raise RewardError(str(error), where=where, remedy="run it on Linux, with a Python that every user may run") from None
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self._pool = ThreadPoolExecutor(options.workers or cores, thread_name_prefix="unit test")

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> Marks:
        """A share, or 1 or 0, for each completion."""
        return self.together([Asked(prompt, completions, row)])[0]

    def together(self, asked: Sequence[Asked]) -> list[Marks]:
        """All completions, as many at once as there are workers. A row without tests has no scores."""
        waiting = [self._begin(a) for a in asked]
        return [marks() for marks in waiting]

    def close(self) -> None:
        """End the pool."""
        self._pool.shutdown(cancel_futures=True)

    def _begin(self, asked: Asked) -> Callable[[], Marks]:
        """Have the completions run; what is given back waits for them."""
        count = len(asked.completions)
        try:
            tests = self._tests(asked.row)
        except LuthierError as error:
            reason = error.fault.message
            return lambda: Marks([None] * count, faults=dict.fromkeys(range(count), reason))
        futures = [self._pool.submit(self._score, text, tests) for text in asked.completions]

        def marks() -> Marks:
            faults = {i: str(error) for i, f in enumerate(futures) if (error := f.exception()) is not None}
            return Marks([None if i in faults else f.result() for i, f in enumerate(futures)], faults=faults)

        return marks

    def _tests(self, row: Row) -> list[Step]:
        """Raises RewardError where there are none, or they are no Python."""
        given = cell(row, self.options.column)
        if not isinstance(given, (str, list, tuple)):
            raise RewardError(f"{self.options.column!r} holds {str(given)[:40]}, neither a text of tests nor a list of such")
        try:
            found = steps(given) if isinstance(given, str) else [Step(_python(str(text)), True) for text in given]
        except (ValueError, TypeError) as error:
            raise RewardError(f"the tests in {self.options.column!r} are {error}"[:160]) from None
        if not any(step.test for step in found):
            raise RewardError(f"no tests in {self.options.column!r}: neither asserts nor calls nor test_ functions")
        return found

    def _score(self, text: str, tests: Sequence[Step]) -> float:
        code = fenced(text, languages=LANGUAGES)
        verdict = examine(text if code is None else code, tests, limits=self.limits)
        share = verdict.passed / verdict.tests
        return share if self.options.grade == "share" else float(share == 1)


def _python(text: str) -> str:
    """The text, if it is Python. Raises ValueError."""
    steps(text)
    return text
