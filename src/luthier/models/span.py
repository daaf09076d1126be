"""Where an answer starts and ends: the loss of a batch of windows, and the best spans of each.

Enters: a model with a span head and a batch with three layers: `edges` (1 where the answer starts, 2 where it ends,
3 for both), `begins` and `ends`: the characters of each token of the passage, and -1 at the place that means "no
answer here". Leaves: nats, and candidates by character. The softmax goes over all tokens of a window, as in
transformers' own question-answering loss.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from luthier.models.batch import Batch, Segments
from luthier.models.forward import Layout, place_logits

NULL = -1
"""`begins` of the place that means no answer."""


def span_loss(model: nn.Module, batch: Batch, layout: Layout) -> Tensor:
    """Mean of the two cross-entropies of each window, (segments,)."""
    values = _values(model, batch, layout)
    return _nats(values, segment_logsumexp(values, batch.segments), batch)


def span_figures(model: nn.Module, batch: Batch, layout: Layout, *, longest: int, candidates: int) -> Tensor:
    """What each window says, (segments, 4 + 3 * candidates).

    Nats; 1; the log-partition of its pairs of tokens; the score of no answer; and for each of the best spans of at most
    `longest` tokens its score (start and end logit together) and its first and last character. Where there are fewer
    spans than wished, the rest are -inf, -1, -1.
    """
    values = _values(model, batch, layout)
    partition = segment_logsumexp(values, batch.segments)
    begins, ends = batch.layers["begins"], batch.layers["ends"]
    null = values[begins == NULL].sum(1)
    inside = (begins >= 0)[:, None]
    open_, close = torch.where(inside, values, -torch.inf).unbind(1)
    lines = []
    for first, size in zip(batch.segments.starts.tolist(), batch.segments.lengths.tolist(), strict=True):
        here = slice(first, first + size)
        after = nn.functional.pad(close[here], (0, longest - 1), value=-torch.inf).unfold(0, longest, 1)
        scores, places = (open_[here, None] + after).flatten().topk(min(candidates, size * longest))
        starts = places // longest
        stops = (starts + places % longest).clamp(max=size - 1)
        real = scores > -torch.inf
        spans = [scores, torch.where(real, begins[here][starts], -1), torch.where(real, ends[here][stops], -1)]
        line = torch.stack([s.to(values.dtype) for s in spans], 1)
        empty = line.new_tensor([-torch.inf, -1, -1]).expand(candidates - len(line), 3)
        lines.append(torch.cat([line, empty]).flatten())
    figures = torch.stack([_nats(values, partition, batch), torch.ones_like(null), partition.sum(1), null], 1)
    return torch.cat([figures, torch.stack(lines)], 1)


def _values(model: nn.Module, batch: Batch, layout: Layout) -> Tensor:
    """The start and end logit of every token, (tokens, 2)."""
    places = torch.arange(batch.input_ids.numel(), device=batch.input_ids.device)
    return place_logits(model, batch, layout, places).float()


def segment_logsumexp(values: Tensor, segments: Segments) -> Tensor:
    """Log-sum-exp of each column of (tokens, columns) within each segment, (segments, columns)."""
    owner = segments.owner
    highest = values.new_full((segments.count, values.shape[1]), -torch.inf)
    highest = highest.scatter_reduce(0, owner[:, None].expand_as(values), values.detach(), "amax")
    total = torch.zeros_like(highest).index_add(0, owner, (values - highest[owner]).exp())
    return highest + total.log()


def _nats(values: Tensor, partition: Tensor, batch: Batch) -> Tensor:
    """Each window has one start and one end, in the order of the windows."""
    edges = batch.layers["edges"].clamp(min=0)
    gold = torch.stack([values[(edges & 1) > 0, 0], values[(edges & 2) > 0, 1]], 1)
    return (partition - gold).mean(1)
