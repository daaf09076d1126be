"""From the flat run to the rows that attention computes together, and back; and what a query may see in its row.

Enters: (tokens, heads, width) tensors and a `Group`, whose rows are segments, or a `Fork`, whose rows are branches with their
stems' keys before their own. Leaves: (rows, length, heads, width) tensors, and gradients at the places that they are of.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor

from luthier.models.segments import Fork, Group

Chunk = Group | Fork
"""What attention computes at once."""


@dataclass(frozen=True)
class Rule:
    """What one layer's attention does inside a segment."""

    scale: float
    dropout: float
    causal: bool
    window: int | None
    softcap: float | None


def queries_of(chunk: Chunk) -> Group:
    """The segments whose tokens ask."""
    return chunk.group if isinstance(chunk, Fork) else chunk


@lru_cache(maxsize=64)
def allowed(length: int, reach: int, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """Which key a query may see, (length, reach + length) bool; None where it may see all. `reach` keys come before the first query's own.

    The window counts as flash attention's does: a query sees keys nearer than `window`.
    """
    if window is not None and window >= reach + length:
        window = None
    if not causal and window is None:
        return None
    distance = torch.arange(reach, reach + length, device=device)[:, None] - torch.arange(reach + length, device=device)
    found = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return found if window is None else found & (distance.abs() < window)


def seen(chunk: Chunk, rule: Rule, device: torch.device) -> Tensor | None:
    """(rows or 1, 1, queries, keys) bool, or None where nothing is masked."""
    length = queries_of(chunk).length
    inside = allowed(length, chunk.length - length, rule.causal, rule.window, device)
    if chunk.real is None:
        return None if inside is None else inside[None, None]
    real = chunk.real[:, None, None, :]
    return real.expand(-1, 1, length, -1) if inside is None else real & inside


def gather(x: Tensor, group: Group, *, clean: bool = False) -> Tensor:
    """The group's rows of a flat (tokens, heads, width) tensor, as (rows, length, heads, width).

    Places past a row's end hold other tokens' values, or zeros when `clean`.
    """
    if group.places is None or group.valid is None:
        rows = x[group.start : group.start + group.tokens]
    elif clean:
        rows = x.new_zeros(group.rows * group.length, *x.shape[1:])
        rows[group.valid] = x[group.start : group.start + group.tokens]
    else:
        rows = x[group.places.flatten()]
    return rows.view(group.rows, group.length, *x.shape[1:])


def gather_keys(x: Tensor, chunk: Chunk) -> Tensor:
    """The keys of each row, (rows, keys, heads, width)."""
    if isinstance(chunk, Group):
        return gather(x, chunk)
    return x.index_select(0, chunk.places.flatten()).view(*chunk.places.shape, *x.shape[1:])


def scatter(rows: Tensor, group: Group, out: Tensor) -> None:
    """Write (rows, length, heads, width) back to the group's place in the flat `out`."""
    flat = rows.reshape(group.rows * group.length, *out.shape[1:])
    out[group.start : group.start + group.tokens] = flat if group.valid is None else flat[group.valid]


def scatter_keys(rows: Tensor, chunk: Chunk, out: Tensor) -> None:
    """Write the gradients of keys, (rows, keys, heads, width), to their places, which stems share: those must have been written before."""
    if isinstance(chunk, Group):
        scatter(rows, chunk, out)
        return
    scatter(rows[:, chunk.reach :], chunk.group, out)
    stems, places = rows[:, : chunk.reach], chunk.places[:, : chunk.reach]
    if chunk.real is not None:
        real = chunk.real[:, : chunk.reach]
        stems, places = stems[real], places[real]
    out.index_add_(0, places.flatten(), stems.reshape(-1, *out.shape[1:]))


def to_heads(rows: Tensor, kv_heads: int) -> Tensor:
    """(rows, length, heads, width) -> (rows * kv_heads, heads / kv_heads * length, width)."""
    count, length, heads, width = rows.shape
    shared = rows.view(count, length, kv_heads, heads // kv_heads, width)
    return shared.permute(0, 2, 3, 1, 4).reshape(count * kv_heads, -1, width)


def from_heads(x: Tensor, length: int, heads: int, kv_heads: int) -> Tensor:
    """The inverse of `to_heads`: (rows, length, heads, width)."""
    shared = x.view(-1, kv_heads, heads // kv_heads, length, x.shape[-1])
    return shared.permute(0, 3, 1, 2, 4).reshape(-1, length, heads, x.shape[-1])


def part_of(chunk: Chunk, first: int, count: int) -> Chunk:
    """`count` rows from the `first` on."""
    if isinstance(chunk, Fork):
        own = slice(first, first + count)
        real = None if chunk.real is None else chunk.real[own]
        return Fork(_rows(chunk.group, first, count), chunk.reach, chunk.places[own], real)
    return _rows(chunk, first, count)


def _rows(group: Group, first: int, count: int) -> Group:
    if group.places is None or group.real is None:
        return Group(group.start + first * group.length, count, group.length, count * group.length)
    places, real = group.places[first : first + count], group.real[first : first + count]
    valid = real.flatten().nonzero().squeeze(1)
    return Group(int(places[0, 0]), count, group.length, valid.numel(), places, real, valid)
