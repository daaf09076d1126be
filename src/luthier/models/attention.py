"""Ragged attention, registered in transformers under the name "ragged".

Enters: query, key and value of a flat run (1, heads, tokens, width) and the run's `Segments`, which
travel as a keyword through the model's forward. Leaves: the attention output of each segment alone.
Any architecture that calls its attention through `AttentionInterface` gets it unchanged.

On a CPU the dense computation, written out as matrix products with its own backward, beats
`scaled_dot_product_attention` several times for lengths up to a few hundred (see
benchmarks/classification.py); longer segments, and accelerators, go through SDPA group by group.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from luthier.errors import ModelError
from luthier.models.batch import Bridge, Crossing, Group, Segments
from luthier.models.dropout import drop, random_lanes, survivor_scale, survivors

NAME = "ragged"
DENSE_LENGTH = 1024
"""Longest segment whose score matrix is held whole on a CPU."""
CHUNK_SCORES = 1 << 20
"""Scores computed at a time: 4 MiB in fp32, so that softmax and dropout stay in cache."""


@dataclass(frozen=True)
class Rule:
    """What one layer's attention does inside a segment."""

    scale: float
    dropout: float
    causal: bool
    window: int | None
    softcap: float | None


def ragged_attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    segments: Segments | Bridge | None = None,
    position_bias: Tensor | None = None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """Attention within each segment; (1, heads, tokens, width) in, (1, tokens, heads, width) out.

    With a `Bridge`, queries look at the segments of another run. `position_bias` is a table by
    distance, (1, heads, 1, 2 * reach + 1), as `bias_by_distance` makes it: no tokens x tokens matrix.

    Raises ModelError when the model's forward did not hand the segments on.
    """
    if segments is None or query.shape[0] != 1 or (isinstance(segments, Segments) and query.shape[2] != key.shape[2]):
        raise ModelError(
            f"{type(module).__name__} did not hand the segments of a ragged batch to its attention",
            remedy="set training.attention: padded",
        )
    rule = Rule(
        scale=query.shape[-1] ** -0.5 if scaling is None else scaling,
        dropout=dropout,
        causal=bool(getattr(module, "is_causal", False)) if is_causal is None else is_causal,
        window=sliding_window,
        softcap=softcap,
    )
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    if isinstance(segments, Bridge):
        return torch.cat([_across(q, k, v, crossing, rule) for crossing in segments.crossings])[None], None
    if position_bias is not None:
        return torch.cat([_biased(q, k, v, group, rule, position_bias) for group in segments.groups])[None], None
    parts: list[Tensor] = []
    dense = [g for g in segments.groups if q.device.type == "cpu" and g.length <= DENSE_LENGTH]
    if dense:
        tokens = sum(g.tokens for g in dense)
        parts.append(_Dense.apply(q[:tokens], k[:tokens], v[:tokens], dense, rule))  # type: ignore[no-untyped-call]
    parts.extend(_by_sdpa(q, k, v, group, rule) for group in segments.groups[len(dense) :])
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def register() -> None:
    """Make `attn_implementation="ragged"` known to transformers; it needs no mask."""
    AttentionInterface.register(NAME, ragged_attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


@lru_cache(maxsize=64)
def _allowed(length: int, causal: bool, window: int | None, device: torch.device) -> Tensor | None:
    """Which key a query may see, (length, length) bool; None where it may see all.

    The window counts as flash attention's does: a query sees keys nearer than `window`.
    """
    if window is not None and window >= length:
        window = None
    if not causal and window is None:
        return None
    place = torch.arange(length, device=device)
    distance = place[:, None] - place
    allowed = distance >= 0 if causal else torch.ones_like(distance, dtype=torch.bool)
    return allowed if window is None else allowed & (distance.abs() < window)


def _group_allowed(group: Group, rule: Rule, device: torch.device) -> Tensor | None:
    """(count or 1, 1, length, length) bool, or None where nothing is masked."""
    inside = _allowed(group.length, rule.causal, rule.window, device)
    if group.real is None:
        return None if inside is None else inside[None, None]
    real = group.real[:, None, None, :]
    return real.expand(-1, 1, group.length, -1) if inside is None else real & inside


def _gather(x: Tensor, group: Group, *, clean: bool = False) -> Tensor:
    """The group's rows of a flat (tokens, heads, width) tensor, as (count, length, heads, width).

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


def _scatter(rows: Tensor, group: Group, out: Tensor) -> None:
    """Write (count, length, heads, width) back to the group's place in the flat `out`."""
    flat = rows.reshape(group.rows * group.length, *out.shape[1:])
    out[group.start : group.start + group.tokens] = flat if group.valid is None else flat[group.valid]


def _chunks(groups: list[Group], heads: int) -> Iterator[Group]:
    """Cut groups so that no piece computes many more than CHUNK_SCORES scores at once."""
    for group in groups:
        most = max(1, CHUNK_SCORES // (heads * group.length**2))
        if group.rows <= most:
            yield group
            continue
        for first in range(0, group.rows, most):
            count = min(most, group.rows - first)
            if group.places is None or group.real is None:
                yield Group(group.start + first * group.length, count, group.length, count * group.length)
                continue
            places, real = group.places[first : first + count], group.real[first : first + count]
            valid = real.flatten().nonzero().squeeze(1)
            yield Group(int(places[0, 0]), count, group.length, valid.numel(), places, real, valid)


def _to_heads(rows: Tensor, kv_heads: int) -> Tensor:
    """(count, length, heads, width) -> (count * kv_heads, heads / kv_heads * length, width)."""
    count, length, heads, width = rows.shape
    shared = rows.view(count, length, kv_heads, heads // kv_heads, width)
    return shared.permute(0, 2, 3, 1, 4).reshape(count * kv_heads, -1, width)


def _from_heads(x: Tensor, group: Group, heads: int, kv_heads: int) -> Tensor:
    """The inverse of `_to_heads`: (count, length, heads, width)."""
    shared = x.view(group.rows, kv_heads, heads // kv_heads, group.length, x.shape[-1])
    return shared.permute(0, 3, 1, 2, 4).reshape(group.rows, group.length, heads, x.shape[-1])


class _Dense(torch.autograd.Function):
    """softmax(q k^T * scale) v with dropout, one chunk of segments at a time.

    Kept for the backward pass: the probabilities and the 16-bit dropout draws. With M the mask of
    survivors over (1 - p), D = P * M, O = D v:  dv = D^T dO,  dP = (dO v^T) * M,
    dS = P * (dP - rowsum(dP * P)),  dq = dS k * scale,  dk = dS^T q * scale.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, groups: list[Group], rule: Rule) -> Tensor:
        heads, kv_heads = q.shape[1], k.shape[1]
        out = q.new_empty(q.shape[0], heads, v.shape[-1])
        ctx.rule, ctx.shapes, ctx.chunks, saved = rule, (q.shape, k.shape, v.shape), [], []
        keep = any(ctx.needs_input_grad[:3])
        for chunk in _chunks(groups, heads):
            qc = _to_heads(_gather(q, chunk), kv_heads) * rule.scale
            kc, vc = (_to_heads(_gather(x, chunk), kv_heads) for x in (k, v))
            scores = torch.bmm(qc, kc.transpose(1, 2))
            slope = None
            if rule.softcap is not None:
                slope = torch.tanh(scores.div_(rule.softcap))
                scores = slope * rule.softcap
            allowed = _group_allowed(chunk, rule, q.device)
            if allowed is not None:
                view = scores.view(chunk.rows, heads, chunk.length, chunk.length)
                view.masked_fill_(~allowed, torch.finfo(scores.dtype).min / 2)
            weights = torch.softmax(scores, -1)
            lanes = None
            if rule.dropout:
                lanes = random_lanes(tuple(weights.shape), device=weights.device)
                dropped = survivors(lanes, rule.dropout, dtype=weights.dtype).mul_(weights)
                result = torch.bmm(dropped, vc).mul_(survivor_scale(rule.dropout))
            else:
                result = torch.bmm(weights, vc)
            _scatter(_from_heads(result, chunk, heads, kv_heads), chunk, out)
            if keep:
                ctx.chunks.append(chunk)
                saved += [qc, kc, vc, weights, lanes, slope]
        ctx.save_for_backward(*saved)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dout,) = gradients
        rule, heads, kv_heads = ctx.rule, ctx.shapes[0][1], ctx.shapes[1][1]
        dq, dk, dv = (dout.new_empty(shape) for shape in ctx.shapes)
        saved = iter(ctx.saved_tensors)
        for chunk in ctx.chunks:
            qc, kc, vc, weights, lanes, slope = (next(saved) for _ in range(6))
            go = _to_heads(_gather(dout, chunk, clean=True), kv_heads)
            if lanes is not None:
                go = go * survivor_scale(rule.dropout)
                mask = survivors(lanes, rule.dropout, dtype=weights.dtype)
                dvc = torch.bmm((mask * weights).transpose(1, 2), go)
                dweights = torch.bmm(go, vc.transpose(1, 2)).mul_(mask)
            else:
                dvc = torch.bmm(weights.transpose(1, 2), go)
                dweights = torch.bmm(go, vc.transpose(1, 2))
            dscores = torch._softmax_backward_data(dweights, weights, -1, weights.dtype)
            if slope is not None:
                dscores = dscores * (1 - slope * slope)
            dqc = torch.bmm(dscores, kc).mul_(rule.scale)
            dkc = torch.bmm(dscores.transpose(1, 2), qc)
            _scatter(_from_heads(dqc, chunk, heads, kv_heads), chunk, dq)
            _scatter(_from_heads(dkc, chunk, kv_heads, kv_heads), chunk, dk)
            _scatter(_from_heads(dvc, chunk, kv_heads, kv_heads), chunk, dv)
        return dq, dk, dv, None, None


def _by_sdpa(q: Tensor, k: Tensor, v: Tensor, group: Group, rule: Rule) -> Tensor:
    """One group through torch's own kernel; (group tokens, heads, width) out."""
    rows = [_gather(x, group).transpose(1, 2) for x in (q, k, v)]
    shared = q.shape[1] != k.shape[1]
    plain_causal = rule.causal and group.real is None and (rule.window is None or rule.window >= group.length)
    allowed = None if plain_causal and rule.softcap is None else _group_allowed(group, rule, q.device)
    if rule.softcap is None:
        out = F.scaled_dot_product_attention(
            rows[0],
            rows[1],
            rows[2],
            attn_mask=allowed,
            dropout_p=rule.dropout,
            is_causal=plain_causal,
            scale=rule.scale,
            enable_gqa=shared,
        )
    else:
        if shared:
            rows[1:] = [x.repeat_interleave(q.shape[1] // k.shape[1], dim=1) for x in rows[1:]]
        scores = torch.tanh(rows[0] @ rows[1].transpose(2, 3) * (rule.scale / rule.softcap)) * rule.softcap
        if allowed is not None:
            scores = scores.masked_fill(~allowed, torch.finfo(scores.dtype).min / 2)
        out = F.dropout(torch.softmax(scores, -1), rule.dropout) @ rows[2]
    flat = out.transpose(1, 2).reshape(group.rows * group.length, q.shape[1], v.shape[-1])
    return flat if group.valid is None else flat[group.valid]


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
        return _gather(x, group).transpose(1, 2)
    return _rows_of(x, group.places)


def _flatten(out: Tensor, group: Group) -> Tensor:
    """(rows, heads, length, width) back to the group's (tokens, heads, width)."""
    flat = out.transpose(1, 2).reshape(group.rows * group.length, out.shape[1], out.shape[3])
    return flat if group.valid is None else flat.index_select(0, group.valid)


def _across(q: Tensor, k: Tensor, v: Tensor, crossing: Crossing, rule: Rule) -> Tensor:
    """Queries of one run, each segment on its source in another."""
    keys, values = (_rows_of(x, crossing.places) for x in (k, v))
    out = _plain(_queries(q, crossing.group), keys, values, bias=None, allowed=crossing.real[:, None, None], rule=rule)
    return _flatten(out, crossing.group)


def _biased(q: Tensor, k: Tensor, v: Tensor, group: Group, rule: Rule, table: Tensor) -> Tensor:
    """One group with a bias by relative position (Raffel et al. 2020, sec. 2.1), cut from the table."""
    reach = (table.shape[-1] - 1) // 2
    place = torch.arange(group.length, device=q.device)
    distance = (place - place[:, None]).clamp(-reach, reach) + reach
    bias = table[0, :, 0].index_select(1, distance.flatten()).view(-1, group.length, group.length)
    queries, keys, values = (_queries(x, group) for x in (q, k, v))
    return _flatten(_plain(queries, keys, values, bias=bias, allowed=_group_allowed(group, rule, q.device), rule=rule), group)


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
