"""Rows that a way of retention reads itself: earlier ones, or replay.

Enters: token ids with their targets. Leaves: batches, one example each or drawn anew for every update; what is drawn
depends on (seed, update, row) alone, so that a resumed run draws the same.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from luthier.data.tokens import Tokens
from luthier.models.batch import Batch, collate, size_of, within_budget


@dataclass(frozen=True)
class Rows:
    """Examples, and for each its targets; with `types` batches carry token types."""

    tokens: Tokens
    targets: Mapping[str, Tensor]
    types: bool = False

    def batch(self, chosen: Sequence[int]) -> Batch:
        """The examples with these numbers, laid end to end; one may stand there twice."""
        examples = self.tokens.examples()
        batch = collate([examples[i] for i in chosen], chosen, types=self.types)
        order = list(batch.rows)
        return replace(batch, targets={name: values[order] for name, values in self.targets.items()})

    def singly(self) -> Iterator[Batch]:
        """One example at a time."""
        for i in range(len(self.tokens)):
            yield self.batch([i])

    def drawn(self, rows: Sequence[int], *, seed: int, step: int, max_tokens: int, padded: bool) -> Batch:
        """An example for each training row of a batch, as many as `max_tokens` allows, at least one."""
        places = [random.Random(f"{seed}/{step}/{row}").randrange(len(self.tokens)) for row in rows]
        examples = self.tokens.examples()
        return self.batch(next(within_budget(places, [size_of(examples[i]) for i in places], max_tokens, padded=padded)))
