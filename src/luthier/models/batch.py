"""The ragged batch: examples laid end to end in one flat run of tokens, without padding.

Enters: examples as lists of token ids. Leaves: a `Batch`, whose `Segments` tell every layer that
looks across tokens (attention, pooling) where one example ends and the next begins. Segments are
sorted by length, so that attention can treat runs of equal or similar length together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from luthier.data.tokens import UNGRADED as UNGRADED
from luthier.models.segments import PADDING_COST_TOKENS as PADDING_COST_TOKENS
from luthier.models.segments import Bridge as Bridge
from luthier.models.segments import Group as Group
from luthier.models.segments import Segments as Segments
from luthier.models.segments import bridge_of
from luthier.models.segments import segments_of as segments_of


@dataclass(frozen=True)
class Batch:
    """One forward pass.

    `input_ids`, `positions` and, where the model has them, `token_types` are flat (tokens,) int64
    tensors; `targets` is whatever the task puts there, one row a segment, in segment order;
    `rows` gives, in segment order, the index of each example in its data part (the same one for each text of an example
    that holds several). `labels` (tokens,)
    holds for each place the token graded there, UNGRADED where none is. For an encoder-decoder the
    batch is the decoder's run, `source` the encoder's, and `bridge` leads from one to the other. Where a
    model's frozen bottom was computed before (`models/trunk.py`), `trunk` (tokens, width) is what it gave, or
    `pooled` (segments, width) is. `layers` are further marks of a task on each place, flat (tokens,) int64 tensors by
    name: which word it begins, and what is graded there where a task grades several things.
    """

    input_ids: Tensor
    positions: Tensor
    token_types: Tensor | None
    segments: Segments
    rows: tuple[int, ...]
    targets: dict[str, Tensor] = field(default_factory=dict)
    labels: Tensor | None = None
    source: Batch | None = None
    bridge: Bridge | None = None
    trunk: Tensor | None = None
    pooled: Tensor | None = None
    layers: dict[str, Tensor] = field(default_factory=dict)

    @property
    def tokens(self) -> int:
        """Tokens computed, the source's too."""
        return int(self.input_ids.numel()) + (self.source.tokens if self.source else 0)

    def to(self, device: torch.device) -> Batch:
        if self.input_ids.device == device:
            return self
        return replace(
            self,
            input_ids=self.input_ids.to(device),
            positions=self.positions.to(device),
            token_types=None if self.token_types is None else self.token_types.to(device),
            segments=self.segments.to(device),
            targets={name: value.to(device) for name, value in self.targets.items()},
            labels=None if self.labels is None else self.labels.to(device),
            source=None if self.source is None else self.source.to(device),
            bridge=None if self.bridge is None else self.bridge.to(device),
            trunk=None if self.trunk is None else self.trunk.to(device),
            pooled=None if self.pooled is None else self.pooled.to(device),
            layers={name: value.to(device) for name, value in self.layers.items()},
        )


class Loss(NamedTuple):
    """What a loss function returns: a sum and its weight, never a mean.

    Their ratio over all the batches of one update is the loss; so accumulation, sharding and
    ragged batches give the same gradient whatever the batch shape. `parts` are named sums for the
    log.
    """

    sum: Tensor
    weight: float
    parts: Mapping[str, float] = MappingProxyType({})


COLUMNS = ("input_ids", "token_type_ids", "labels", "source_ids")
"""Columns of an example that have a place of their own in a batch."""
PART = "part"
"""The layer of an example that holds several texts: the number of the text that each token belongs to."""
BRANCH = "branch"
"""The layer of an example that is a tree: 0 on the tokens of its stem, where it has one, and 1, 2, ... on those of its branches."""


def collate(examples: Sequence[Mapping[str, Any]], rows: Sequence[int] | None = None, *, types: bool = False) -> Batch:
    """Lay examples end to end, shortest first (of equal ones, that with the shorter source).

    `examples` hold `input_ids` (ints), optionally `token_type_ids`, `labels` of the same length, and `source_ids`,
    what an encoder reads; every other column, of the same length too, becomes a layer. An example with a layer `part`
    becomes a segment for each text that it holds. One with a layer `branch` is a tree: its stem is a segment, and each branch
    one that goes on from there. `rows` are their indices, 0.. when None.
    With `types` the batch carries token types (zeros where an example has none). Raises ValueError on an empty list or an
    empty example.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    rows = range(len(examples)) if rows is None else rows
    if BRANCH in examples[0]:
        return _trees(examples, rows, types=types)
    if PART in examples[0]:
        examples, rows = _texts_apart(examples, rows, PART)
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i]["input_ids"]), len(examples[i].get("source_ids", ()))))
    chosen = [examples[i] for i in order]
    lengths = [len(e["input_ids"]) for e in chosen]
    if lengths[0] == 0:
        raise ValueError(f"example {rows[order[0]]} has no tokens")
    segments = segments_of(lengths)
    source, bridge = None, None
    if "source_ids" in chosen[0]:
        source = collate([{"input_ids": e["source_ids"]} for e in chosen])
        bridge = bridge_of(segments, source.segments, source.rows)
    return Batch(
        input_ids=_flat([e["input_ids"] for e in chosen]),
        positions=torch.cat([torch.arange(n) for n in lengths]),
        token_types=_types(chosen) if types else None,
        segments=segments,
        rows=tuple(rows[i] for i in order),
        source=source,
        bridge=bridge,
        **_marks(chosen),
    )


def _trees(examples: Sequence[Mapping[str, Any]], rows: Sequence[int], *, types: bool) -> Batch:
    """Every stem once, then the branches, those of one stem beside each other; positions go on from the stem's."""
    pieces, owners = _texts_apart(examples, rows, BRANCH)
    if len(pieces) == 0 or any(len(p["input_ids"]) == 0 for p in pieces):
        raise ValueError("a tree has no tokens")
    stems, stem = [], -1
    for i, piece in enumerate(pieces):
        if piece[BRANCH][0] == 0:
            stem = i
        elif i == 0 or owners[i] != owners[i - 1]:
            stem = -1
        stems.append(stem if stem != i else -1)
    sizes = [len(p["input_ids"]) for p in pieces]
    before = [sizes[s] if s >= 0 else 0 for s in stems]
    order = sorted(range(len(pieces)), key=lambda i: (before[i], stems[i], sizes[i]))
    place = {piece: number for number, piece in enumerate(order)}
    chosen, lengths = [pieces[i] for i in order], [sizes[i] for i in order]
    return Batch(
        input_ids=_flat([e["input_ids"] for e in chosen]),
        positions=torch.cat([torch.arange(before[i], before[i] + sizes[i]) for i in order]),
        token_types=_types(chosen) if types else None,
        segments=segments_of(lengths, [place.get(stems[i], -1) for i in order]),
        rows=tuple(owners[i] for i in order),
        **_marks(chosen),
    )


def _types(examples: Sequence[Mapping[str, Any]]) -> Tensor:
    return _flat([e["token_type_ids"] if e.get("token_type_ids") is not None else [0] * len(e["input_ids"]) for e in examples])


def _marks(examples: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Labels and layers, as a batch has them."""
    return {
        "labels": _flat([e["labels"] for e in examples]) if "labels" in examples[0] else None,
        "layers": {n: _flat([e[n] for e in examples]) for n in examples[0] if n not in COLUMNS},
    }


def _texts_apart(examples: Sequence[Mapping[str, Any]], rows: Sequence[int], layer: str) -> tuple[list[Mapping[str, Any]], list[int]]:
    """Every text of every example, as the layer numbers them, as an example of its own, and the row of each."""
    texts: list[Mapping[str, Any]] = []
    owners: list[int] = []
    for example, row in zip(examples, rows, strict=True):
        cuts = [0, *(np.flatnonzero(np.diff(example[layer])) + 1).tolist(), len(example[layer])]
        texts += [{name: values[a:b] for name, values in example.items()} for a, b in itertools.pairwise(cuts)]
        owners += [row] * (len(cuts) - 1)
    return texts, owners


def size_of(example: Mapping[str, Any]) -> int:
    """Tokens an example costs to compute."""
    return len(example["input_ids"]) + len(example.get("source_ids", ()))


def _flat(parts: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.asarray(p, dtype=np.int64) for p in parts]))


def within_budget(
    rows: Sequence[int], lengths: Sequence[int], max_tokens: int, *, padded: bool = False, longest_first: bool = False
) -> Iterator[list[int]]:
    """Rows by length, in runs of at most `max_tokens` computed tokens (a longer row stands alone).

    With `padded`, a run computes its count times its longest row.
    """
    run: list[int] = []
    tokens = longest = 0
    for length, row in sorted(zip(lengths, rows, strict=True), reverse=longest_first):
        longest = max(longest, length)
        cost = longest * (len(run) + 1) if padded else tokens + length
        if run and cost > max_tokens:
            yield run
            run, tokens, longest = [], 0, length
        run.append(row)
        tokens += length
    if run:
        yield run
