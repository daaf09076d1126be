"""How likely a model finds each graded token: log-probabilities that any function of them may be differentiated through.

Enters: a language model and a `Batch` with labels. Leaves: the log-probability of each graded token, or their sum over each
segment, with gradients. As in `models/language.py` only graded places reach the head, and logits live a chunk at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from luthier.errors import ModelError
from luthier.models import language
from luthier.models.batch import Batch
from luthier.models.forward import Layout, hidden_states
from luthier.models.language import LinearHead, graded, head_of, project


class _LogProbs(torch.autograd.Function):
    """log p(label) of a linear head, (n,), and its gradients, a chunk of rows at a time.

    With p = softmax(l), dl = g (onehot - p), where g, the gradient of each log-probability, is known in the backward pass alone.
    For the hidden states it is a factor of each row, so that theirs are computed with the log-probabilities, while the logits
    are there; where the head itself learns, logits are computed a second time.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, head: LinearHead) -> Tensor:
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        again = want_weight or (want_bias and bias is not None)
        slopes_of = torch.empty_like(hidden) if want_hidden and not again else None
        found = torch.empty(len(labels), dtype=torch.float32, device=hidden.device)
        log_z = torch.empty_like(found)
        used = _used(weight, hidden)
        for part in _parts(len(labels), weight):
            states, gold = hidden.detach()[part] * head.scale, labels[part]
            logits, slope = _logits(states, used, bias, head)
            picked = logits.gather(1, gold[:, None])[:, 0]
            log_z[part] = torch.logsumexp(logits, 1)
            found[part] = picked - log_z[part]
            if slopes_of is not None:
                slopes = _slopes(logits, gold, log_z[part], slope)
                language.unproject(slopes.to(states.dtype), used, slopes_of[part]).mul_(head.scale)
        ctx.head, ctx.again, ctx.weight = head, again, weight
        ctx.save_for_backward(slopes_of, *((hidden, bias, labels, log_z) if again else ()))
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = gradients
        slopes_of, *rest = ctx.saved_tensors
        if not ctx.again:
            return slopes_of if slopes_of is None else slopes_of * upstream[:, None].to(slopes_of.dtype), None, None, None, None
        (hidden, bias, labels, log_z), weight, head = rest, ctx.weight, ctx.head
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        dhidden = torch.empty_like(hidden) if want_hidden else None
        dweight = language.spare(weight) if want_weight else None
        dbias = torch.zeros_like(bias) if want_bias and bias is not None else None
        used = _used(weight, hidden)
        for part in _parts(len(labels), weight):
            states = hidden[part] * head.scale
            logits, slope = _logits(states, used, bias, head)
            slopes = _slopes(logits, labels[part], log_z[part], slope).mul_(upstream[part, None]).to(states.dtype)
            if dbias is not None:
                dbias += slopes.sum(0)
            if dhidden is not None:
                language.unproject(slopes, used, dhidden[part]).mul_(head.scale)
            if dweight is not None:
                language.add_outer(dweight, slopes, states, first=part.start == 0)
        if dweight is not None and language.kept(weight):
            language.give(weight, dweight)
            dweight = None
        return dhidden, dweight, dbias, None, None


def _used(weight: Tensor, hidden: Tensor) -> Tensor:
    weight = weight.detach()
    return weight.to(hidden.dtype) if weight.element_size() > hidden.element_size() else weight


def _parts(count: int, weight: Tensor) -> list[slice]:
    rows = max(16, language.CHUNK_LOGITS // weight.shape[0])
    return [slice(start, min(start + rows, count)) for start in range(0, count, rows)]


def _logits(states: Tensor, weight: Tensor, bias: Tensor | None, head: LinearHead) -> tuple[Tensor, Tensor | None]:
    """Logits in fp32, and the tangent that caps them, where one does."""
    logits = project(states, weight, bias).float()
    if head.softcap is None:
        return logits, None
    slope = torch.tanh(logits.div_(head.softcap))
    return slope * head.softcap, slope


def _slopes(logits: Tensor, gold: Tensor, log_z: Tensor, slope: Tensor | None) -> Tensor:
    """The derivative of log p(gold) by the logits before they are capped; `logits` are written over."""
    slopes = logits.sub_(log_z[:, None]).exp_().neg_()
    slopes.scatter_add_(1, gold[:, None], torch.ones_like(slopes[:, :1]))
    return slopes if slope is None else slopes.mul_(1 - slope * slope)


class Said(NamedTuple):
    """Of each segment: the summed log-probability of its graded tokens (nats), and their number; both (segments,)."""

    sums: Tensor
    counts: Tensor


class States(NamedTuple):
    """The hidden states that graded tokens are predicted from, (n, width), and those tokens, (n,), in the order of `graded(batch)`."""

    hidden: Tensor
    labels: Tensor


def graded_states(model: nn.Module, batch: Batch, layout: Layout) -> States:
    """What the head reads, with gradients."""
    places, labels = graded(batch)
    return States(hidden_states(model, batch, layout).index_select(0, places), labels)


def logprobs_of(model: nn.Module, states: States, *, temperature: float = 1.0) -> Tensor:
    """The log-probability of each graded token where logits are divided by `temperature`, (n,) fp32, with gradients.

    Raises ModelError for a temperature other than 1 where the model caps its logits: what it draws from is no linear head then.
    """
    head = head_of(model)
    bias = head.bias
    if temperature != 1.0:
        if head.softcap is not None:
            raise ModelError("caps its logits", where="task.temperature", remedy="set it to 1")
        head, bias = head._replace(scale=head.scale / temperature), None if bias is None else bias / temperature
    found: Tensor = _LogProbs.apply(states.hidden, head.weight, bias, states.labels, head)  # type: ignore[no-untyped-call]
    return found


def token_logprobs(model: nn.Module, batch: Batch, layout: Layout) -> Tensor:
    """The log-probability of each graded token in the order of `graded(batch)`, (n,) fp32, with gradients."""
    return logprobs_of(model, graded_states(model, batch, layout))


def segment_logprobs(model: nn.Module, batch: Batch, layout: Layout) -> Said:
    """The log-probability of what is graded in each segment, given all before it, with gradients."""
    places, _ = graded(batch)
    owner = batch.segments.owner[places]
    each = token_logprobs(model, batch, layout)
    sums = each.new_zeros(batch.segments.count).index_add(0, owner, each)
    return Said(sums, torch.bincount(owner, minlength=batch.segments.count).to(each.dtype))
