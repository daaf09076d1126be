"""Examples to updates: an endless, resumable iterator of micro-batches within a token budget.

Enters: examples in token ids with their targets. Leaves: `Update`s, each the micro-batches whose
gradients make one optimizer step. The order is a function of (seed, epoch) alone and the position is
two numbers, so resuming is exact.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from luthier.models.batch import Batch, collate, size_of, within_budget
from luthier.training.curriculum import Course


@dataclass(frozen=True)
class Update:
    """The micro-batches of one optimizer step; `epoch` is 0-based, `ends_epoch` marks its last."""

    batches: tuple[Batch, ...]
    epoch: int
    ends_epoch: bool


class Heaviest(NamedTuple):
    """A batch, and whether its update has others."""

    batch: Batch
    several: bool


class Turn(NamedTuple):
    """The rows of an update, its epoch, and whether it is the last of that."""

    rows: list[int]
    epoch: int
    ends_epoch: bool


class Updates(Protocol):
    """What a training takes its updates from."""

    def __iter__(self) -> Iterator[Update]: ...
    def heaviest(self, updates: int) -> Heaviest: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state: dict[str, Any]) -> None: ...


class UpdateStream:
    """Iterates updates forever, epoch after epoch.

    `size` examples make an update. Its examples are laid into as few forward passes as `max_tokens`
    allows, by length; with sums-and-weights losses the cut does not change the gradient. `alter` makes
    of an example what this epoch shows of it (masking); its draws depend on (seed, epoch, row) alone.
    `above` lays beside a batch what its frozen layers give. Which rows an epoch has, and in which order, says the
    `course`; all, shuffled, where there is none.
    """

    def __init__(
        self,
        examples: Sequence[Mapping[str, Any]],
        targets: dict[str, Tensor],
        *,
        size: int,
        max_tokens: int,
        seed: int,
        types: bool = False,
        padded: bool = False,
        alter: Callable[[Mapping[str, Any], random.Random], Mapping[str, Any]] | None = None,
        above: Callable[[Batch], Batch] | None = None,
        course: Course | None = None,
    ) -> None:
        self._course = course
        self._examples, self._targets, self._alter, self._above = examples, targets, alter, above
        self._size, self._max_tokens, self._seed, self._types, self._padded = size, max_tokens, seed, types, padded
        self.epoch, self.position = 0, 0

    @property
    def updates_per_epoch(self) -> int:
        return -(-len(self._examples) // self._size)

    def heaviest(self, updates: int) -> Heaviest:
        """Of the first `updates` from here, the batch of most tokens.

        Of equally many tokens, those in the longest examples. The position is not moved.
        """
        sizes = [size_of(e) for e in self._examples]
        best: tuple[tuple[int, int], list[int], int, bool] | None = None
        for rows, epoch in itertools.islice(self._upcoming(), updates):
            parts = list(within_budget(rows, [sizes[r] for r in rows], self._max_tokens, padded=self._padded))
            for part in parts:
                found = [sizes[r] for r in part]
                tokens = max(found) * len(part) if self._padded else sum(found)
                weight = (tokens, sum(n * n for n in found))
                if best is None or weight > best[0]:
                    best = weight, part, epoch, len(parts) > 1
        assert best is not None, "there are examples"
        return Heaviest(self._batch(best[1], best[2]), best[3])

    def _upcoming(self) -> Iterator[tuple[list[int], int]]:
        """Rows and epoch of every update to come."""
        start = self.position
        for epoch in itertools.count(self.epoch):
            order = self._order(epoch)
            for first in range(start, len(order), self._size):
                yield order[first : first + self._size], epoch
            start = 0

    def _order(self, epoch: int) -> list[int]:
        if self._course is not None:
            return self._course.rows(epoch)
        order = list(range(len(self._examples)))
        random.Random(f"{self._seed}/{epoch}").shuffle(order)
        return order

    def state_dict(self) -> dict[str, Any]:
        """Where the next update starts."""
        return {"epoch": self.epoch, "position": self.position, "course": self._course.state if self._course else {}}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = state["epoch"], state["position"]
        if self._course is not None:
            self._course.state.update(state["course"])

    def __iter__(self) -> Iterator[Update]:
        for rows, epoch, ends in self.turns():
            yield Update(tuple(self._batches(rows, epoch)), epoch, ends)

    def turns(self) -> Iterator[Turn]:
        """The rows of each update, without their batches; the position moves on."""
        while True:
            order = self._order(self.epoch)
            while self.position < len(order):
                rows = order[self.position : self.position + self._size]
                self.position += len(rows)
                epoch, ends = self.epoch, self.position >= len(order)
                if ends:
                    self.epoch, self.position = self.epoch + 1, 0
                yield Turn(rows, epoch, ends)
                if ends:
                    break

    def _batches(self, rows: list[int], epoch: int) -> Iterator[Batch]:
        for part in within_budget(rows, [size_of(self._examples[r]) for r in rows], self._max_tokens, padded=self._padded):
            yield self._batch(part, epoch)

    def _batch(self, rows: list[int], epoch: int) -> Batch:
        batch = collate([self._example(r, epoch) for r in rows], rows, types=self._types)
        if self._above is not None:
            batch = self._above(batch)
        chosen = list(batch.rows)
        return replace(batch, targets={name: values[chosen] for name, values in self._targets.items()})

    def _example(self, row: int, epoch: int) -> Mapping[str, Any]:
        example = self._examples[row]
        return example if self._alter is None else self._alter(example, random.Random(f"{self._seed}/{epoch}/{row}"))
