"""What a way to make further rows is: training rows in, a new text for each out.

An augmenter is made from its options and the training rows, and is called with those it shall vary. What it makes of one
depends on the row and the seed it comes with alone, so that the same recipe makes the same rows.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, Protocol

from luthier.data.rows import Row
from luthier.registry import AUGMENTERS

if TYPE_CHECKING:
    from luthier.recipe.augment.options import AugmentOptions


@dataclass(frozen=True)
class Source:
    """A training row: its text, its label ("" where the task has none), and the row as it was read."""

    text: str
    label: str
    row: Row


@dataclass(frozen=True)
class Draft:
    """A new text for a row, and the places of other rows that are in it; or None and why there is none."""

    text: str | None
    others: tuple[int, ...] = ()
    why: str = ""


class Ask(NamedTuple):
    """Which row is to be varied, and the seed of what is drawn."""

    place: int
    seed: int

    @property
    def draw(self) -> random.Random:
        """A generator of its own."""
        return random.Random(self.seed)


class Augmenter(Protocol):
    """Made as `Class(options, pool, folder=..., where=...)`: `folder` is the recipe's, `where` the place in it."""

    def __call__(self, asked: Sequence[Ask]) -> list[Draft]: ...


def make(options: AugmentOptions, pool: Sequence[Source], *, folder: Path, where: str) -> Augmenter:
    """The augmenter of some options for some rows."""
    made: Augmenter = AUGMENTERS.load(options.type)(options, pool, folder=folder, where=where)
    return made


def varied(draft: str, source: str) -> Draft:
    """A draft of a text, unless it is the source's."""
    return Draft(draft) if draft != source else Draft(None, why="nothing to change")


def count_of(rate: float, length: int) -> int:
    """How many of so many are changed: the rate's share, one at least where there is one."""
    return min(length, max(1, round(rate * length)))
