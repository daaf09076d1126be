"""Where the examples of a ragged batch lie, and which of them attention computes together.

Enters: lengths, and for trees which segment each goes on from. Leaves: `Segments` with their groups and forks, and for an
encoder-decoder the `Bridge` from one run to the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

PADDING_COST_TOKENS = 256
"""How many wasted tokens weigh as much as one more attention call (measured on two CPU cores)."""
ACCELERATED = 64
"""How many times as much an accelerator wastes before a call more is cheaper: starting its kernels costs what these scores do."""


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
class Fork:
    """Branches that attention computes together: the queries are those of `group`, the keys each branch's stem and its own.

    `places` is (rows, reach + group.length) int64: a stem's tokens end with column `reach`, the branch's own begin there, so
    that between a query and a column the distance is the same in every row. `real` says which columns a row has; None where
    all have all.
    """

    group: Group
    reach: int
    places: Tensor
    real: Tensor | None = None

    @property
    def length(self) -> int:
        """Columns of keys."""
        return self.reach + self.group.length

    def to(self, device: torch.device) -> Fork:
        real = None if self.real is None else self.real.to(device)
        return Fork(self.group.to(device), self.reach, self.places.to(device), real)


@dataclass(frozen=True)
class Segments:
    """Where each example lies in the flat run: `starts` and `lengths` are (n,) int64 tensors.

    In trees, `parents` (n,) is for each segment the one that comes before it, its stem, -1 where there is none. Segments with a
    parent come last; they are in `forks` and not in `groups`.
    """

    starts: Tensor
    lengths: Tensor
    groups: tuple[Group, ...]
    parents: Tensor | None = None
    forks: tuple[Fork, ...] = ()

    @property
    def count(self) -> int:
        return int(self.starts.numel())

    def to(self, device: torch.device) -> Segments:
        """The same segments there, for an accelerator in fewer groups."""
        if device.type != "cpu" and self.lengths.device.type == "cpu":
            parents = None if self.parents is None else self.parents.tolist()
            return segments_of(self.lengths.tolist(), parents, cost=ACCELERATED * PADDING_COST_TOKENS)._at(device)
        return self._at(device)

    def _at(self, device: torch.device) -> Segments:
        parents = None if self.parents is None else self.parents.to(device)
        groups, forks = tuple(g.to(device) for g in self.groups), tuple(f.to(device) for f in self.forks)
        return Segments(self.starts.to(device), self.lengths.to(device), groups, parents, forks)

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


def bridge_of(targets: Segments, sources: Segments, rows: Sequence[int]) -> Bridge:
    """Lead each target to its source; `rows` says which target a source belongs to.

    Consecutive targets cross together as long as padding, to the longest of them and of their sources,
    does not double the scores (a few more are cheaper than another call).
    """
    place = torch.empty(targets.count, dtype=torch.int64)
    place[torch.tensor(rows)] = torch.arange(targets.count)
    starts, lengths = sources.starts[place], sources.lengths[place]
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


def segments_of(lengths: Sequence[int], parents: Sequence[int] | None = None, *, cost: int = PADDING_COST_TOKENS) -> Segments:
    """Offsets and attention groups of segments whose lengths never decrease; those with a parent come after all others.

    `cost` is how many tokens may be wasted to save an attention call.
    """
    sizes = torch.tensor(lengths)
    ends = torch.cumsum(sizes, 0)
    starts = ends - sizes
    roots = len(lengths) if parents is None else sum(p < 0 for p in parents)
    groups, first = [], 0
    while first < roots:
        last = _group_end(lengths[:roots], first, cost)
        groups.append(_group(starts[first:last], sizes[first:last]))
        first = last
    if parents is None:
        return Segments(starts=starts, lengths=sizes, groups=tuple(groups))
    forks: list[Fork] = []
    stems = [lengths[p] for p in parents]
    while first < len(lengths):
        last = _fork_end(lengths, stems, first, cost)
        forks.append(_fork(starts, sizes, torch.tensor(parents[first:last]), first))
        first = last
    return Segments(starts=starts, lengths=sizes, groups=tuple(groups), parents=torch.tensor(parents), forks=tuple(forks))


def _fork_end(lengths: Sequence[int], stems: Sequence[int], first: int, cost: int) -> int:
    """How far a fork may grow: as long as padding queries and keys costs less than a call more."""
    longest = reach = scores = 0
    for last in range(first, len(lengths)):
        longest, reach = max(longest, lengths[last]), max(reach, stems[last])
        scores += lengths[last] * (stems[last] + lengths[last])
        wasted = (last + 1 - first) * longest * (reach + longest) - scores
        if last > first and wasted > cost * 64:
            return last
    return len(lengths)


def _fork(starts: Tensor, sizes: Tensor, parents: Tensor, first: int) -> Fork:
    """The branches from `first` on, as many as `parents` has."""
    own = slice(first, first + len(parents))
    group, stems = _group(starts[own], sizes[own]), sizes[parents]
    reach = int(stems.max())
    before, after = torch.arange(-reach, 0), torch.arange(group.length)
    real = torch.cat([before >= -stems[:, None], after < sizes[own, None]], 1)
    places = torch.cat([starts[parents, None] + stems[:, None] + before, starts[own, None] + after], 1)
    if real.all():
        return Fork(group, reach, places)
    return Fork(group, reach, torch.where(real, places, starts[own, None]), real)


def _group_end(lengths: Sequence[int], first: int, cost: int) -> int:
    """How far a group may grow: as long as padding inside attention costs less than a call more."""
    last, wasted = first + 1, 0
    while last < len(lengths):
        step = lengths[last] - lengths[last - 1]
        wasted += step * (last - first)
        if step and wasted * lengths[last] > cost * 64:
            break
        last += 1
    return last


def _group(starts: Tensor, lengths: Tensor) -> Group:
    start, count, length, tokens = int(starts[0]), len(lengths), int(lengths.max()), int(lengths.sum())
    if int(lengths.min()) == length:
        return Group(start, count, length, tokens)
    columns = torch.arange(length)
    real = columns < lengths[:, None]
    places = torch.where(real, starts[:, None] + columns, starts[:, None])
    return Group(start, count, length, tokens, places, real, real.flatten().nonzero().squeeze(1))
