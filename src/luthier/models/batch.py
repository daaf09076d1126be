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


@dataclass(frozen=True)
class Group:
    """Consecutive segments that attention computes together: `rows` of at most `length` tokens.

    `places` is None when all have exactly `length` tokens (a plain view of the flat run); otherwise
    it is an int64 tensor (rows, length) of positions in the flat run, with rows shorter than
    `length` continued by an arbitrary valid position, `real` (rows, length) bool says which places
    are the row's own, and `valid` (tokens,) lists those places in the flattened (rows * length).
    """

    start: int
    rows: int
    length: int
    tokens: int
    places: Tensor | None = None
    real: Tensor | None = None
    valid: Tensor | None = None

    def to(self, device: torch.device) -> Group:
        moved = {n: t.to(device) for n, t in (("places", self.places), ("real", self.real), ("valid", self.valid)) if t is not None}
        return replace(self, **moved)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Segments:
    """Where each example lies in the flat run: `starts` and `lengths` are (n,) int64 tensors."""

    starts: Tensor
    lengths: Tensor
    groups: tuple[Group, ...]

    @property
    def count(self) -> int:
        return int(self.starts.numel())

    def to(self, device: torch.device) -> Segments:
        return Segments(self.starts.to(device), self.lengths.to(device), tuple(g.to(device) for g in self.groups))

    @property
    def last(self) -> Tensor:
        """Position of each segment's last token, (n,)."""
        return self.starts + self.lengths - 1

    @property
    def owner(self) -> Tensor:
        """For each token of the flat run, the segment it belongs to, (tokens,)."""
        return torch.repeat_interleave(torch.arange(self.count, device=self.lengths.device), self.lengths)


@dataclass(frozen=True)
class Crossing:
    """One group of queries and the keys they look at: `places` and `real` are (rows, longest source)."""

    group: Group
    places: Tensor
    real: Tensor

    def to(self, device: torch.device) -> Crossing:
        return Crossing(self.group.to(device), self.places.to(device), self.real.to(device))


@dataclass(frozen=True)
class Bridge:
    """What cross-attention needs in place of `Segments`: each target's group, with its sources in the other run."""

    crossings: tuple[Crossing, ...]

    def to(self, device: torch.device) -> Bridge:
        return Bridge(tuple(c.to(device) for c in self.crossings))


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
PADDING_COST_TOKENS = 256
"""How many wasted tokens weigh as much as one more attention call (measured on two CPU cores)."""


def collate(examples: Sequence[Mapping[str, Any]], rows: Sequence[int] | None = None, *, types: bool = False) -> Batch:
    """Lay examples end to end, shortest first (of equal ones, that with the shorter source).

    `examples` hold `input_ids` (ints), optionally `token_type_ids`, `labels` of the same length, and `source_ids`,
    what an encoder reads; every other column, of the same length too, becomes a layer. An example with a layer `part`
    becomes a segment for each text that it holds. `rows` are their indices, 0.. when None.
    With `types` the batch carries token types (zeros where an example has none). Raises ValueError on an empty list or an
    empty example.
    """
    if not examples:
        raise ValueError("a batch needs at least one example")
    rows = range(len(examples)) if rows is None else rows
    if PART in examples[0]:
        examples, rows = _texts_apart(examples, rows)
    order = sorted(range(len(examples)), key=lambda i: (len(examples[i]["input_ids"]), len(examples[i].get("source_ids", ()))))
    chosen = [examples[i] for i in order]
    lengths = [len(e["input_ids"]) for e in chosen]
    if lengths[0] == 0:
        raise ValueError(f"example {rows[order[0]]} has no tokens")
    token_types = None
    if types:
        token_types = _flat([e["token_type_ids"] if e.get("token_type_ids") is not None else [0] * len(e["input_ids"]) for e in chosen])
    segments = segments_of(lengths)
    source, bridge = None, None
    if "source_ids" in chosen[0]:
        source = collate([{"input_ids": e["source_ids"]} for e in chosen])
        bridge = bridge_of(segments, source)
    return Batch(
        input_ids=_flat([e["input_ids"] for e in chosen]),
        positions=torch.cat([torch.arange(n) for n in lengths]),
        token_types=token_types,
        segments=segments,
        rows=tuple(rows[i] for i in order),
        labels=_flat([e["labels"] for e in chosen]) if "labels" in chosen[0] else None,
        source=source,
        bridge=bridge,
        layers={n: _flat([e[n] for e in chosen]) for n in chosen[0] if n not in COLUMNS},
    )


def _texts_apart(examples: Sequence[Mapping[str, Any]], rows: Sequence[int]) -> tuple[list[Mapping[str, Any]], list[int]]:
    """Every text of every example as an example of its own, and the row of each."""
    texts: list[Mapping[str, Any]] = []
    owners: list[int] = []
    for example, row in zip(examples, rows, strict=True):
        cuts = [0, *(np.flatnonzero(np.diff(example[PART])) + 1).tolist(), len(example[PART])]
        texts += [{name: values[a:b] for name, values in example.items()} for a, b in itertools.pairwise(cuts)]
        owners += [row] * (len(cuts) - 1)
    return texts, owners


def size_of(example: Mapping[str, Any]) -> int:
    """Tokens an example costs to compute."""
    return len(example["input_ids"]) + len(example.get("source_ids", ()))


def _flat(parts: Sequence[Any]) -> Tensor:
    return torch.from_numpy(np.concatenate([np.asarray(p, dtype=np.int64) for p in parts]))


def bridge_of(targets: Segments, source: Batch) -> Bridge:
    """Lead each target to its source; `source.rows` says which target a source belongs to.

    Consecutive targets cross together as long as padding, to the longest of them and of their sources,
    does not double the scores (a few more are cheaper than another call).
    """
    place = torch.empty(targets.count, dtype=torch.int64)
    place[torch.tensor(source.rows)] = torch.arange(targets.count)
    starts, lengths = source.segments.starts[place], source.segments.lengths[place]
    sizes, reads = targets.lengths.tolist(), lengths.tolist()
    crossings, first = [], 0
    while first < targets.count:
        last = _crossing_end(sizes, reads, first)
        columns = torch.arange(int(lengths[first:last].max()))
        real = columns < lengths[first:last, None]
        begin = starts[first:last, None]
        group = _group(targets.starts[first:last], targets.lengths[first:last])
        crossings.append(Crossing(group, torch.where(real, begin + columns, begin), real))
        first = last
    return Bridge(tuple(crossings))


def _crossing_end(targets: Sequence[int], sources: Sequence[int], first: int) -> int:
    """How far a crossing may grow; targets never get shorter."""
    longest = scores = 0
    for last in range(first, len(targets)):
        longest, scores = max(longest, sources[last]), scores + targets[last] * sources[last]
        if last > first and (last + 1 - first) * targets[last] * longest > 2 * scores + PADDING_COST_TOKENS * 64:
            return last
    return len(targets)


def segments_of(lengths: Sequence[int]) -> Segments:
    """Offsets and attention groups of segments whose lengths never decrease."""
    sizes = torch.tensor(lengths)
    ends = torch.cumsum(sizes, 0)
    starts = ends - sizes
    groups, first = [], 0
    while first < len(lengths):
        last = _group_end(lengths, first)
        groups.append(_group(starts[first:last], sizes[first:last]))
        first = last
    return Segments(starts=starts, lengths=sizes, groups=tuple(groups))


def _group_end(lengths: Sequence[int], first: int) -> int:
    """How far a group may grow: as long as padding inside attention costs less than a call more."""
    last, wasted = first + 1, 0
    while last < len(lengths):
        step = lengths[last] - lengths[last - 1]
        wasted += step * (last - first)
        if step and wasted * lengths[last] > PADDING_COST_TOKENS * 64:
            break
        last += 1
    return last


def _group(starts: Tensor, lengths: Tensor) -> Group:
    start, count, length, tokens = int(starts[0]), len(lengths), int(lengths[-1]), int(lengths.sum())
    if int(lengths[0]) == length:
        return Group(start, count, length, tokens)
    columns = torch.arange(length)
    real = columns < lengths[:, None]
    places = torch.where(real, starts[:, None] + columns, starts[:, None])
    return Group(start, count, length, tokens, places, real, real.flatten().nonzero().squeeze(1))


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
