"""How far answers have moved from those of the starting model: T^2 KL(start || now), summed over what is compared.

Enters: logits of both, or for token heads the hidden states below them, so that the vocabulary's logits are there a chunk
of rows at a time. T^2 keeps the gradient's size whatever the temperature (Hinton et al. 2015, sec. 2.1).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.models.language import CHUNK_LOGITS, LinearHead, give, project, spare


def of_classes(now: Tensor, start: Tensor, temperature: float) -> Tensor:
    """One answer of several a row, (rows, classes)."""
    p, q = torch.log_softmax(start / temperature, 1), torch.log_softmax(now / temperature, 1)
    return temperature**2 * (p.exp() * (p - q)).sum()


def of_labels(now: Tensor, start: Tensor, temperature: float) -> Tensor:
    """A yes or no for each label, (rows, labels)."""
    old, new = start / temperature, now / temperature
    p = torch.sigmoid(old)
    terms = p * (F.logsigmoid(old) - F.logsigmoid(new)) + (1 - p) * (F.logsigmoid(-old) - F.logsigmoid(-new))
    return temperature**2 * terms.sum()


def of_numbers(now: Tensor, start: Tensor, temperature: float) -> Tensor:
    """Numbers, as means of normal distributions of variance 1: half the squared difference, at any temperature."""
    return (now - start).square().sum() / 2


def of_tokens(hidden: Tensor, head: LinearHead, start: Tensor, start_head: LinearHead, temperature: float) -> Tensor:
    """Tokens over the vocabulary, from the hidden states below both heads, (places, width)."""
    return _LinearDivergence.apply(hidden, head.weight, head.bias, head, start, start_head, temperature)  # type: ignore[no-untyped-call, no-any-return]


class _LinearDivergence(torch.autograd.Function):
    """T^2 KL of linear heads, and its gradients, a chunk of rows at a time: dl = T (softmax(l / T) - softmax(l0 / T))."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, head: LinearHead, start: Tensor, start_head: LinearHead, heat: float
    ) -> Tensor:
        rows = max(16, CHUNK_LOGITS // weight.shape[0])
        used = weight.detach()
        if used.element_size() > hidden.element_size():
            used = used.to(hidden.dtype)
        wanted = ctx.needs_input_grad[:3]
        dhidden = torch.empty_like(hidden) if wanted[0] else None
        dweight = spare(weight) if wanted[1] else None
        dbias = torch.zeros_like(bias) if wanted[2] and bias is not None else None
        total = torch.zeros((), dtype=torch.float64)
        for first in range(0, len(hidden), rows):
            part = hidden.detach()[first : first + rows] * head.scale
            logits, slope = project(part, used, bias).float(), None
            if head.softcap is not None:
                slope = torch.tanh(logits.div_(head.softcap))
                logits = slope * head.softcap
            p = torch.log_softmax(start_head.logits(start[first : first + rows]) / heat, 1)
            q = torch.log_softmax(logits / heat, 1)
            old = p.exp()
            total += heat**2 * (old * (p - q)).double().sum().cpu()
            slopes = q.exp_().sub_(old).mul_(heat)
            if slope is not None:
                slopes.mul_(1 - slope * slope)
            slopes = slopes.to(part.dtype)
            if dbias is not None:
                dbias += slopes.sum(0)
            if dhidden is not None:
                dhidden[first : first + rows] = project(slopes, used.T, None).mul_(head.scale)
            if dweight is not None:
                found = (slopes.T @ part).to(dweight.dtype)
                dweight.copy_(found) if first == 0 else dweight.add_(found)
        ctx.found, ctx.weight = (dhidden, dweight, dbias), weight
        return total.to(device=hidden.device, dtype=torch.float32)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (dhidden, dweight, dbias), ctx.found = ctx.found, None
        for gradient in (dhidden, dweight, dbias):
            if gradient is not None:
                gradient.mul_(gradients[0].to(gradient.dtype))
        if dweight is not None and hasattr(ctx.weight, "spare_gradients") and ctx.weight.is_leaf:
            give(ctx.weight, dweight)
            dweight = None
        return dhidden, dweight, dbias, None, None, None, None
