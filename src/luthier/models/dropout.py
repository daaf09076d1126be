"""Dropout that is not the slowest part of training on a CPU.

torch draws one Bernoulli number an element (about 5 ns each here: more than the rest of attention
together). One 64-bit draw holds four 15-bit numbers, which is resolution enough for a dropout
probability: the probability used is the nearest multiple of 1/32768, and the survivors are scaled
by its exact inverse, so the expectation is unchanged.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

LEVELS = 1 << 15
_LANES = 0x7FFF7FFF7FFF7FFF


def random_lanes(shape: tuple[int, ...], *, device: torch.device) -> Tensor:
    """Independent uniform integers in [0, 32768), int16, of the given shape, from torch's generator."""
    size = math.prod(shape)
    words = torch.empty((size + 3) // 4, dtype=torch.int64, device=device).random_().bitwise_and_(_LANES)
    return words.view(torch.int16)[:size].view(shape)


def threshold(probability: float) -> int:
    """The lane value under which an element is dropped."""
    return min(LEVELS - 1, round(probability * LEVELS))


def survivors(lanes: Tensor, probability: float, *, dtype: torch.dtype) -> Tensor:
    """1 where an element is kept, 0 where it is dropped, in the shape of `lanes`."""
    return torch.ge(lanes, threshold(probability), out=torch.empty(lanes.shape, dtype=dtype, device=lanes.device))


def survivor_scale(probability: float) -> float:
    """What the survivors are multiplied with."""
    return LEVELS / (LEVELS - threshold(probability))


def drop(x: Tensor, probability: float) -> Tensor:
    """Zero each element with the probability and scale the rest."""
    if not probability:
        return x
    lanes = random_lanes(tuple(x.shape), device=x.device)
    return x * survivors(lanes, probability, dtype=x.dtype).mul_(survivor_scale(probability))


class LaneDropout(nn.Dropout):
    """`nn.Dropout` with the same expectation, drawn four elements to a random number."""

    def forward(self, input: Tensor) -> Tensor:
        if not self.training or self.p == 0:
            return input
        return drop(input, self.p)


def install(model: nn.Module) -> int:
    """Let every `nn.Dropout` of `model` draw by lanes; returns how many did. Weights are untouched."""
    found = [m for m in model.modules() if type(m) is nn.Dropout]
    for module in found:
        module.__class__ = LaneDropout
    return len(found)
