"""Attention from one run to another, and with a bias by relative position: what encoder-decoders add to ragged attention.

Enters: queries, keys and values, flat, with a `Crossing`, or with a table of biases. Leaves: the attention output of one group.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.dropout import drop
from luthier.models.rows import Rule, gather, seen
from luthier.models.segments import Crossing, Group


def _rows_of(x: Tensor, places: Tensor) -> Tensor:
    """(tokens, heads, width) at (rows, length) places, as (rows, heads, length, width)."""
    return x.index_select(0, places.flatten()).view(*places.shape, *x.shape[1:]).transpose(1, 2)


def _plain(q: Tensor, k: Tensor, v: Tensor, *, bias: Tensor | None, allowed: Tensor | None, rule: Rule) -> Tensor:
    """Attention written out, for (rows, heads, length, width); `bias` is added to the scores."""
    if k.shape[1] != q.shape[1]:
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], dim=1) for x in (k, v))
    scores = (q * rule.scale) @ k.transpose(2, 3)
    if bias is not None:
        scores = scores + bias
    if allowed is not None:
        scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min / 2)
    return drop(torch.softmax(scores, -1), rule.dropout) @ v


def _queries(x: Tensor, group: Group) -> Tensor:
    """The group's queries, (rows, heads, length, width); `index_select`, since its backward is fast."""
    if group.places is None:
        return gather(x, group).transpose(1, 2)
    return _rows_of(x, group.places)


def _flatten(out: Tensor, group: Group) -> Tensor:
    """(rows, heads, length, width) back to the group's (tokens, heads, width)."""
    flat = out.transpose(1, 2).reshape(group.rows * group.length, out.shape[1], out.shape[3])
    return flat if group.valid is None else flat.index_select(0, group.valid)


def across(q: Tensor, k: Tensor, v: Tensor, crossing: Crossing, rule: Rule) -> Tensor:
    """Queries of one run, each segment on its source in another."""
    keys, values = (_rows_of(x, crossing.places) for x in (k, v))
    out = _plain(_queries(q, crossing.group), keys, values, bias=None, allowed=crossing.real[:, None, None], rule=rule)
    return _flatten(out, crossing.group)


def biased(q: Tensor, k: Tensor, v: Tensor, group: Group, rule: Rule, table: Tensor) -> Tensor:
    """One group with a bias by relative position (Raffel et al. 2020, sec. 2.1), cut from the table."""
    reach = (table.shape[-1] - 1) // 2
    place = torch.arange(group.length, device=q.device)
    distance = (place - place[:, None]).clamp(-reach, reach) + reach
    bias = table[0, :, 0].index_select(1, distance.flatten()).view(-1, group.length, group.length)
    queries, keys, values = (_queries(x, group) for x in (q, k, v))
    return _flatten(_plain(queries, keys, values, bias=bias, allowed=seen(group, rule, q.device), rule=rule), group)


def bias_by_distance(module: nn.Module) -> Tensor:
    """The relative position bias of a T5-like attention for every distance it tells apart, (1, heads, 1, 2 * reach + 1)."""
    reach = int(module.relative_attention_max_distance)  # type: ignore[arg-type]
    buckets = module._relative_position_bucket(  # type: ignore[operator]
        torch.arange(-reach, reach + 1),
        bidirectional=not module.is_decoder,
        num_buckets=module.relative_attention_num_buckets,
        max_distance=reach,
    )
    return module.relative_attention_bias(buckets.to(module.relative_attention_bias.weight.device)).T[None, :, None]  # type: ignore[operator, union-attr]


def route(module: nn.Module, _: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]] | None:
    """A forward pre-hook for attention that may look across, or adds a position bias.

    It acts only on calls that carry segments: cross-attention gets the bridge, and the bias is given by
    distance before the module would lay it out for the whole run.
    """
    if kwargs.get("segments") is None:
        return None
    kwargs = dict(kwargs)
    across = kwargs.get("key_value_states") is not None or kwargs.get("encoder_hidden_states") is not None
    if across:
        kwargs["segments"] = kwargs.get("bridge")
    if hasattr(module, "has_relative_attention_bias") and kwargs.get("position_bias") is None:
        if module.has_relative_attention_bias:
            kwargs["position_bias"] = bias_by_distance(module)
        else:
            kwargs["position_bias"] = next(module.parameters()).new_zeros(1, 1, 1, 1)
    return (_, kwargs)
