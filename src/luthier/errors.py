"""What can go wrong, in words for the person who can mend it.

    LuthierError
    ├── RecipeError        the recipe asks for something that cannot be (all faults at once)
    ├── DataError          a file, column, label or row
    │   └── LabelError         labels that would teach the wrong thing; carries samples of them
    ├── ModelError         a model that cannot be found, loaded or run as asked
    ├── TrainingError      training could not go on
    │   ├── NonFiniteError     a loss or gradient was not a finite number; no update was made
    │   ├── MemoryShortage     what training will need does not fit in memory; found before the first update
    │   ├── Interrupted        stopped by a signal, after saving
    │   ├── RewardError        a reward that cannot be had, or that failed on too much of what it was asked
    │   └── Forgotten          a probe got worse by more than allowed; the run is finished and saved
    ├── EndpointError      a model that was asked for rows and does not answer
    ├── CheckpointError    no valid checkpoint where one is needed
    ├── RunError           a run that is missing, locked or in the wrong state
    ├── SpaceError         not enough disk, or a folder that cannot be written
    └── DependencyError    an optional package is needed; the message holds its install line

Core code raises these and never prints or exits; the edges (CLI, HTTP, Studio) print them and exit.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Fault:
    """One thing wrong, where it is (recipe path, file and line), and what to do about it."""

    message: str
    where: str | None = None
    remedy: str | None = None

    def __str__(self) -> str:
        text = f"{self.where}: {self.message}" if self.where else self.message
        return f"{text}\n  → {self.remedy}" if self.remedy else text


class LuthierError(Exception):
    """The root. `str()` gives the whole message: what is wrong, where, and what to do."""

    def __init__(self, message: str, *, where: str | None = None, remedy: str | None = None) -> None:
        self.fault = Fault(message, where, remedy)
        super().__init__(str(self.fault))


class RecipeError(LuthierError):
    """All the faults of a recipe together."""

    def __init__(self, faults: Sequence[Fault]) -> None:
        self.faults = tuple(faults)
        Exception.__init__(self, "\n".join(map(str, self.faults)))


class DataError(LuthierError):
    """A file, column, label or row that cannot be used."""


class LabelError(DataError):
    """Labels that would teach the wrong thing. `samples` are examples as runs of (text, graded)."""

    def __init__(self, message: str, *, where: str | None = None, remedy: str | None = None, samples: Sequence[Any] = ()) -> None:
        super().__init__(message, where=where, remedy=remedy)
        self.samples = tuple(samples)


class ModelError(LuthierError):
    """A model that cannot be found, loaded or run as asked."""


class TrainingError(LuthierError):
    """Training could not go on."""


class NonFiniteError(TrainingError):
    """A loss or gradient was not a finite number; the update was not made."""


class MemoryShortage(TrainingError):
    """Something that training will do does not fit in memory; found before the first update."""


class Interrupted(TrainingError):
    """A signal asked to stop; the step was finished and saved."""


class Forgotten(TrainingError):
    """A probe got worse by more than the recipe allows; the run is finished and saved all the same."""


class RewardError(TrainingError):
    """A reward that cannot be had as the recipe asks for it, or that failed on too much of what it was asked."""


class EndpointError(LuthierError):
    """A model, here or elsewhere, that was asked for rows and does not answer."""


class CheckpointError(LuthierError):
    """No valid checkpoint where one is needed."""


class RunError(LuthierError):
    """A run that is missing, locked by another process, or in the wrong state."""


class SpaceError(LuthierError):
    """Not enough disk, or a folder that cannot be written."""


class DependencyError(LuthierError):
    """An optional package is missing."""

    def __init__(self, package: str, *, extra: str, purpose: str) -> None:
        super().__init__(f"{purpose} needs the package {package}", remedy=f"pip install 'luthier[{extra}]'")
