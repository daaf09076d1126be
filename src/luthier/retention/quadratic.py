"""Half the weighted squared distance of weights from a place, without holding the differences for the backward pass."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


class _Distance(torch.autograd.Function):
    """1/2 sum_i F_i (w_i - a_i)^2, in fp32; its gradient is F (w - a). `None` is 1 for F and 0 for a."""

    @staticmethod
    def forward(ctx: Any, weight: Tensor, anchor: Tensor | None, importance: Tensor | None) -> Tensor:
        ctx.weight, ctx.anchor, ctx.importance = weight, anchor, importance
        away = _away(weight, anchor)
        scaled = away if importance is None else away * importance
        return torch.linalg.vecdot(scaled.flatten(), away.flatten()) / 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        away = _away(ctx.weight.detach(), ctx.anchor)
        if ctx.importance is not None:
            away = away.mul_(ctx.importance)
        return away.mul_(gradients[0]).to(ctx.weight.dtype), None, None


def _away(weight: Tensor, anchor: Tensor | None) -> Tensor:
    return weight.float().clone() if anchor is None else weight.float() - anchor.float()


def distance(terms: Iterable[tuple[Tensor, Tensor | None, Tensor | None]]) -> Tensor | None:
    """The sum over (weight, anchor, importance); None for none."""
    found = [_Distance.apply(*term) for term in terms]  # type: ignore[no-untyped-call]
    return torch.stack(found).sum() if found else None
