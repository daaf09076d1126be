"""Ragged attention, registered in transformers under the name "ragged".

Enters: query, key and value of a flat run (1, heads, tokens, width) and the run's `Segments`, which
travel as a keyword through the model's forward. Leaves: the attention output of each segment alone, or of a branch with
the stem that it goes on from.
Any architecture that calls its attention through `AttentionInterface` gets it unchanged.

On a CPU the dense computation, written out as matrix products with its own backward, beats
`scaled_dot_product_attention` several times for lengths up to a few hundred (see
benchmarks/classification.py); longer segments, and accelerators, go through SDPA group by group.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface
from transformers.masking_utils import AttentionMaskInterface

from luthier.errors import ModelError
from luthier.models.bridged import across, biased
from luthier.models.dropout import random_lanes, survivor_scale, survivors
from luthier.models.rows import Chunk, Rule, from_heads, gather, gather_keys, part_of, queries_of, scatter, scatter_keys, seen, to_heads
from luthier.models.segments import Bridge, Segments

NAME = "ragged"
DENSE_LENGTH = 1024
"""Longest segment whose score matrix is held whole on a CPU."""
CHUNK_SCORES = 1 << 20
"""Scores computed at a time: 4 MiB in fp32, so that softmax and dropout stay in cache."""


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
        return torch.cat([across(q, k, v, crossing, rule) for crossing in segments.crossings])[None], None
    if position_bias is not None:
        if segments.forks:
            raise ModelError(f"{type(module).__name__} biases by relative position, which trees do not lay out")
        return torch.cat([biased(q, k, v, group, rule, position_bias) for group in segments.groups])[None], None
    parts: list[Tensor] = []
    dense: list[Chunk] = [g for g in segments.groups if q.device.type == "cpu" and g.length <= DENSE_LENGTH]
    if segments.forks and len(dense) == len(segments.groups) and all(f.length <= DENSE_LENGTH for f in segments.forks):
        return _Dense.apply(q, k, v, [*dense, *segments.forks], rule)[None], None  # type: ignore[no-untyped-call]
    if dense:
        tokens = sum(queries_of(g).tokens for g in dense)
        parts.append(_Dense.apply(q[:tokens], k[:tokens], v[:tokens], dense, rule))  # type: ignore[no-untyped-call]
    rest: list[Chunk] = [*segments.groups[len(dense) :], *segments.forks]
    parts.extend(_by_sdpa(q, k, v, chunk, rule) for chunk in rest)
    return (parts[0] if len(parts) == 1 else torch.cat(parts))[None], None


def register() -> None:
    """Make `attn_implementation="ragged"` known to transformers; it needs no mask."""
    AttentionInterface.register(NAME, ragged_attention)
    AttentionMaskInterface.register(NAME, lambda *args, **kwargs: None)


def _chunks(groups: Sequence[Chunk], heads: int) -> Iterator[Chunk]:
    """Cut groups so that no piece computes many more than CHUNK_SCORES scores at once."""
    for group in groups:
        rows = queries_of(group).rows
        most = max(1, CHUNK_SCORES // (heads * queries_of(group).length * group.length))
        if rows <= most:
            yield group
            continue
        for first in range(0, rows, most):
            yield part_of(group, first, min(most, rows - first))


class _Dense(torch.autograd.Function):
    """softmax(q k^T * scale) v with dropout, one chunk of segments at a time.

    Kept for the backward pass: the probabilities and the 16-bit dropout draws. With M the mask of
    survivors over (1 - p), D = P * M, O = D v:  dv = D^T dO,  dP = (dO v^T) * M,
    dS = P * (dP - rowsum(dP * P)),  dq = dS k * scale,  dk = dS^T q * scale.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, groups: Sequence[Chunk], rule: Rule) -> Tensor:
        heads, kv_heads = q.shape[1], k.shape[1]
        out = q.new_empty(q.shape[0], heads, v.shape[-1])
        ctx.rule, ctx.shapes, ctx.chunks, saved = rule, (q.shape, k.shape, v.shape), [], []
        keep = any(ctx.needs_input_grad[:3])
        for chunk in _chunks(groups, heads):
            own = queries_of(chunk)
            qc = to_heads(gather(q, own), kv_heads) * rule.scale
            kc, vc = (to_heads(gather_keys(x, chunk), kv_heads) for x in (k, v))
            scores = torch.bmm(qc, kc.transpose(1, 2))
            slope = None
            if rule.softcap is not None:
                slope = torch.tanh(scores.div_(rule.softcap))
                scores = slope * rule.softcap
            allowed = seen(chunk, rule, q.device)
            if allowed is not None:
                view = scores.view(own.rows, heads, own.length, chunk.length)
                view.masked_fill_(~allowed, torch.finfo(scores.dtype).min / 2)
            weights = torch.softmax(scores, -1)
            lanes = None
            if rule.dropout:
                lanes = random_lanes(tuple(weights.shape), device=weights.device)
                dropped = survivors(lanes, rule.dropout, dtype=weights.dtype).mul_(weights)
                result = torch.bmm(dropped, vc).mul_(survivor_scale(rule.dropout))
            else:
                result = torch.bmm(weights, vc)
            scatter(from_heads(result, own.length, heads, kv_heads), own, out)
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
            own = queries_of(chunk)
            go = to_heads(gather(dout, own, clean=True), kv_heads)
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
            scatter(from_heads(dqc, own.length, heads, kv_heads), own, dq)
            scatter_keys(from_heads(dkc, chunk.length, kv_heads, kv_heads), chunk, dk)
            scatter_keys(from_heads(dvc, chunk.length, kv_heads, kv_heads), chunk, dv)
        return dq, dk, dv, None, None


def _by_sdpa(q: Tensor, k: Tensor, v: Tensor, chunk: Chunk, rule: Rule) -> Tensor:
    """One group, or fork, through torch's own kernel; (its tokens, heads, width) out."""
    group = queries_of(chunk)
    rows = [gather(q, group).transpose(1, 2), *(gather_keys(x, chunk).transpose(1, 2) for x in (k, v))]
    shared = q.shape[1] != k.shape[1]
    plain_causal = rule.causal and chunk is group and group.real is None and (rule.window is None or rule.window >= group.length)
    allowed = None if plain_causal and rule.softcap is None else seen(chunk, rule, q.device)
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
