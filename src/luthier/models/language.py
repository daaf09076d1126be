"""Predicting tokens: from the hidden states that are graded to the loss, without holding all logits.

Enters: a language model and a `Batch` with labels. Leaves: the summed cross-entropy, or the figures of
each segment. Hidden states are selected at label positions before the head; logits live a chunk of rows
at a time, so that memory does not grow with batch times vocabulary.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from luthier.errors import ModelError
from luthier.models import attention
from luthier.models.batch import UNGRADED, Batch, collate
from luthier.models.forward import Layout, difference, hidden_states, place_logits, rounding, set_attention

CHUNK_LOGITS = 7 << 20
"""Logits held at a time: 28 MiB in fp32, which the allocator keeps between steps (it maps larger pieces anew)."""


WIDENED = 1 << 23
"""Weights of a head that are converted to another precision at a time."""


class LinearHead(NamedTuple):
    """logits = cap(scale * hidden @ weight.T + bias), as causal and encoder-decoder architectures have it."""

    weight: Tensor
    bias: Tensor | None
    scale: float
    softcap: float | None

    def logits(self, hidden: Tensor) -> Tensor:
        """(n, width) -> (n, vocabulary), in fp32."""
        raw = project(hidden * self.scale, self.weight, self.bias).float()
        return raw if self.softcap is None else torch.tanh(raw / self.softcap) * self.softcap


def head_of(model: nn.Module) -> LinearHead:
    """The model's output head, read from its modules and config. `verify_head` proves the reading right."""
    out: nn.Module = model.get_output_embeddings()  # type: ignore[operator]
    config = model.config.get_text_config()  # type: ignore[union-attr, operator]
    bias = getattr(out, "bias", None)
    extra = getattr(model, "final_logits_bias", None)
    if extra is not None:
        bias = extra[0] if bias is None else bias + extra[0]
    return LinearHead(out.weight, bias, _scale_of(config), getattr(config, "final_logit_softcapping", None))  # type: ignore[arg-type]


def project(hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The linear map of `hidden`, in its precision; a weight of another is converted a piece at a time."""
    bias = None if bias is None else bias.to(hidden.dtype)
    if weight.dtype == hidden.dtype:
        return F.linear(hidden, weight, bias)
    found = torch.cat([F.linear(hidden, piece.to(hidden.dtype)) for piece in weight.split(_rows(weight))], dim=-1)
    return found if bias is None else found + bias


def unproject(slopes: Tensor, weight: Tensor, out: Tensor) -> Tensor:
    """Slopes @ weight into `out`, in whose precision a weight of another is converted a piece at a time."""
    if weight.dtype == slopes.dtype:
        return torch.mm(slopes, weight, out=out)
    out.zero_()
    for part, piece in zip(slopes.split(_rows(weight), 1), weight.split(_rows(weight)), strict=True):
        out.addmm_(part, piece.to(slopes.dtype))
    return out


def _rows(weight: Tensor) -> int:
    return max(1, WIDENED // weight.shape[1])


SCALED_WHERE_TIED = ("umt5", "switch_transformers", "udop")
"""Model types of the T5 family whose config does not say `scale_decoder_outputs`."""


def _scale_of(config: Any) -> float:
    """What the hidden states, or the logits, are multiplied with."""
    tied = config.model_type in SCALED_WHERE_TIED and config.tie_word_embeddings
    if getattr(config, "scale_decoder_outputs", tied):
        return float(config.d_model**-0.5)
    if (scaling := getattr(config, "logits_scaling", None)) is not None:
        return float(scaling if config.model_type == "hyperclovax" else 1 / scaling)
    for name in ("logit_scale", "lm_head_multiplier"):
        if getattr(config, name, None) is not None:
            return float(getattr(config, name))
    return 1.0


@torch.no_grad()
def verify_head(model: PreTrainedModel, layout: Layout) -> None:
    """Raise ModelError unless `head_of` gives the logits that the model's own forward gives for a few tokens."""
    ids = (torch.arange(1, 8) % model.get_output_embeddings().weight.shape[0]).tolist()  # type: ignore[union-attr]
    example: dict[str, Any] = {"input_ids": ids}
    if model.config.is_encoder_decoder:
        example["source_ids"] = ids[:5]
    batch = collate([example]).to(model.device)
    training = model.training
    model.eval()
    try:
        set_attention(model, None)
        mine = head_of(model).logits(hidden_states(model, batch, Layout("padded", layout.pooling, pad_id=layout.pad_id)))
        inputs = {"input_ids": batch.input_ids[None]}
        if batch.source is not None:
            inputs = {"input_ids": batch.source.input_ids[None], "decoder_input_ids": batch.input_ids[None]}
        theirs = model(**inputs, use_cache=False).logits[0].float()
        agree = mine.shape == theirs.shape and difference(mine, theirs) <= rounding(model)
        reason = "computes its logits in a way that is not known here"
    except Exception as error:  # any architecture may fail in its own way
        agree, reason = False, f"cannot be run here: {type(error).__name__}: {str(error).strip()[:160]}"
    finally:
        model.train(training)
        set_attention(model, attention.NAME if layout.kind == "ragged" else None)
    if not agree:
        remedy = "choose an architecture with a linear head, such as Llama, Qwen, GPT-2 or T5"
        raise ModelError(f"{type(model).__name__} {reason}", where="model.name", remedy=remedy)


class _Grades(NamedTuple):
    """What a place's label weighs: `smoothing` over the vocabulary, `z_loss` on the log of the partition."""

    smoothing: float
    z_loss: float


class _LinearCrossEntropy(torch.autograd.Function):
    """Summed cross-entropy of a linear head, and its gradients, a chunk of rows at a time.

    The gradients are computed with the loss, while the chunk's logits are there, and handed out in the
    backward pass: with p = softmax(l), dl = p (1 + 2 z log Z) - (1 - s) onehot - s / V
    (label smoothing s: Szegedy et al. 2016; z-loss: Chowdhery et al. 2023, sec. 5).
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, head: LinearHead, grades: _Grades) -> Tensor:
        rows = max(16, CHUNK_LOGITS // weight.shape[0])
        used = weight.detach()
        if used.element_size() > hidden.element_size():
            used = used.to(hidden.dtype)
        total = torch.zeros((), dtype=torch.float64)
        want_hidden, want_weight, want_bias = ctx.needs_input_grad[:3]
        dhidden = torch.empty_like(hidden) if want_hidden else None
        dweight = spare(weight) if want_weight else None
        dbias = torch.zeros_like(bias) if want_bias and bias is not None else None
        for start in range(0, len(labels), rows):
            part, gold = hidden.detach()[start : start + rows] * head.scale, labels[start : start + rows]
            logits = project(part, used, bias).float()
            slope = None
            if head.softcap is not None:
                slope = torch.tanh(logits.div_(head.softcap))
                logits = slope * head.softcap
            picked = logits.gather(1, gold[:, None])[:, 0]
            mean = logits.mean(1) if grades.smoothing else None
            log_p = torch.log_softmax(logits, 1)
            chosen = log_p.gather(1, gold[:, None])[:, 0]
            log_z = picked - chosen
            loss = -chosen
            if mean is not None:
                loss = (1 - grades.smoothing) * loss + grades.smoothing * (log_z - mean)
            if grades.z_loss:
                loss = loss + grades.z_loss * log_z**2
            total += loss.double().sum().cpu()
            if not (want_hidden or want_weight):
                continue
            slopes = log_p.exp_()
            if grades.z_loss:
                slopes.mul_((1 + 2 * grades.z_loss * log_z)[:, None])
            if grades.smoothing:
                slopes.sub_(grades.smoothing / logits.shape[1])
            slopes.scatter_add_(1, gold[:, None], torch.full_like(slopes[:, :1], grades.smoothing - 1))
            if slope is not None:
                slopes.mul_(1 - slope * slope)
            slopes = slopes.to(part.dtype)
            if dbias is not None:
                dbias += slopes.sum(0)
            if dhidden is not None:
                unproject(slopes, used, dhidden[start : start + rows]).mul_(head.scale)
            if dweight is not None:
                add_outer(dweight, slopes, part, first=start == 0)
        ctx.found, ctx.weight = (dhidden, dweight, dbias), weight
        return total.to(device=hidden.device, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (upstream,) = gradients
        (dhidden, dweight, dbias), ctx.found = ctx.found, None
        if float(upstream) != 1.0:
            for gradient in (dhidden, dweight, dbias):
                if gradient is not None:
                    gradient.mul_(upstream.to(gradient.dtype))
        if dweight is not None and kept(ctx.weight):
            give(ctx.weight, dweight)
            dweight = None
        return dhidden, dweight, dbias, None, None, None


def add_outer(total: Tensor, slopes: Tensor, hidden: Tensor, *, first: bool) -> None:
    """Total (+)= slopes.T @ hidden, in the precision of `total`."""
    if slopes.dtype == total.dtype:
        total.addmm_(slopes.T, hidden, beta=0.0 if first else 1.0)
    elif first:
        total.copy_(slopes.T @ hidden)
    else:
        total.add_(slopes.T @ hidden)


def kept(weight: Tensor) -> bool:
    """Whether the head's gradient lives in buffers that are used again."""
    return hasattr(weight, "spare_gradients") and weight.is_leaf


def keep_gradient(weight: Tensor) -> None:
    """Let the head's gradient live in buffers that are used again, instead of a vocabulary-sized one a step."""
    weight.spare_gradients, weight.lent_gradient = [], None  # type: ignore[attr-defined]


def spare(weight: Tensor) -> Tensor:
    """A buffer of the weight's shape to compute its gradient in, which no open loss and no gradient uses."""
    if not kept(weight):
        return torch.empty_like(weight)
    free, lent = weight.spare_gradients, weight.lent_gradient  # type: ignore[attr-defined]
    if lent is not None and weight.grad is not lent:  # the update it was the gradient of is over
        free.append(lent)
        weight.lent_gradient = None  # type: ignore[attr-defined]
    return free.pop() if free else torch.empty_like(weight)


def give(weight: Tensor, gradient: Tensor) -> None:
    """Add a buffer's gradient to the weight's: as it is where it is the first, else the buffer is free again."""
    if weight.grad is None:
        weight.grad = weight.lent_gradient = gradient  # type: ignore[attr-defined]
    else:
        weight.grad.add_(gradient)
        weight.spare_gradients.append(gradient)  # type: ignore[attr-defined]


def graded(batch: Batch) -> tuple[Tensor, Tensor]:
    """The graded places of the flat run, (n,), and their labels, (n,)."""
    assert batch.labels is not None, "the batch has labels"
    places = (batch.labels != UNGRADED).nonzero()[:, 0]
    return places, batch.labels[places]


def _nothing(batch: Batch) -> Tensor:
    """The loss of a batch in which nothing is graded; it may be differentiated, to no effect."""
    return torch.zeros((), device=batch.input_ids.device, requires_grad=True)


def language_loss(
    model: nn.Module, batch: Batch, layout: Layout, *, smoothing: float = 0.0, z_loss: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, float]:
    """Summed loss over the graded places of a causal or encoder-decoder batch, and their number.

    With `weights`, (tokens,) with few different values, each place counts so often in both.
    """
    places, labels = graded(batch)
    if not len(places):
        return _nothing(batch), 0.0
    hidden, head = hidden_states(model, batch, layout).index_select(0, places), head_of(model)

    def loss(hidden: Tensor, labels: Tensor) -> Tensor:
        found: Tensor = _LinearCrossEntropy.apply(hidden, head.weight, head.bias, labels, head, _Grades(smoothing, z_loss))  # type: ignore[no-untyped-call]
        return found

    if weights is None:
        return loss(hidden, labels), float(len(labels))
    own = weights[places]
    total = [value * loss(hidden[own == value], labels[own == value]) for value in own.unique().tolist()]
    return torch.stack(total).sum(), float(own.double().sum())


def masked_loss(
    model: nn.Module, batch: Batch, layout: Layout, *, smoothing: float = 0.0, z_loss: float = 0.0, weights: Tensor | None = None
) -> tuple[Tensor, float]:
    """Summed loss over the masked places of an encoder's batch, and their number, each counting as `weights` (tokens,) says."""
    places, labels = graded(batch)
    if not len(places):
        return _nothing(batch), 0.0
    logits = place_logits(model, batch, layout, places).float()
    loss = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="none")
    if z_loss:
        loss = loss + z_loss * torch.logsumexp(logits, 1).square()
    if weights is None:
        return loss.sum(), float(len(places))
    return (loss * weights[places]).sum(), float(weights[places].double().sum())


@torch.no_grad()
def token_figures(model: nn.Module, batch: Batch, layout: Layout, *, masked: bool = False) -> Tensor:
    """For each segment: summed negative log-likelihood (nats), graded places, and places predicted right; (segments, 3)."""
    places, labels = graded(batch)
    found = torch.zeros(batch.segments.count, 3, dtype=torch.float64)
    if not len(places):
        return found
    owner = batch.segments.owner[places].cpu()
    if masked:
        pieces = [(place_logits(model, batch, layout, places).float(), slice(None))]
    else:
        hidden, head = hidden_states(model, batch, layout).index_select(0, places), head_of(model)
        rows = max(16, CHUNK_LOGITS // head.weight.shape[0])
        pieces = ((head.logits(hidden[s : s + rows]), slice(s, s + rows)) for s in range(0, len(places), rows))  # type: ignore[assignment]
    for logits, part in pieces:
        gold = labels[part]
        nll = F.cross_entropy(logits, gold, reduction="none").double()
        right = (logits.argmax(1) == gold).double()
        found.index_add_(0, owner[part], torch.stack([nll, torch.ones_like(nll), right], 1).cpu())
    return found
