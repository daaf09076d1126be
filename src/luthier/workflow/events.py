"""What the workflow tells whoever listens: the CLI draws it, Studio will stream it, tests collect it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from luthier.training.loop import StepReport


@dataclass(frozen=True)
class Stage:
    """A stage begins; `detail` says with what."""

    name: str
    detail: str = ""


@dataclass(frozen=True)
class Stepped:
    """An update was made, of `total`."""

    report: StepReport
    total: int


@dataclass(frozen=True)
class Evaluated:
    """Validation scores after an update; `best` when they are the best so far."""

    step: int
    scores: dict[str, Any]
    metric: str
    best: bool


@dataclass(frozen=True)
class Note:
    """Something the user should know."""

    text: str


Event = Stage | Stepped | Evaluated | Note
Listener = Callable[[Event], None]


def silent(event: Event) -> None:
    """Listens to nothing."""
