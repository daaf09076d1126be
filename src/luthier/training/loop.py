"""The loop. It takes a model, updates, a loss and an optimizer, and yields a report for each step.

Saving, logging, the progress bar, early stopping and evaluation consume the reports; none of them
is known here. One loop serves every task, method and device. A minimal use:

    for report in train(model, stream, loss=loss, optimizer=optimizer, rate=lambda step: 1e-4):
        print(report.step, report.loss)
        if report.step == 100:
            break
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import nn

from luthier.errors import NonFiniteError
from luthier.models.batch import Batch, Loss
from luthier.training.batches import Update


class Steps(Protocol):
    """What the loop needs of an optimizer."""

    @property
    def loss_scale(self) -> float: ...
    def back_off(self) -> bool: ...
    def gradient_norm(self, weight: float) -> float: ...
    def bad_gradients(self) -> list[str]: ...
    def step(self, *, learning_rate: float, weight: float, norm: float) -> None: ...
    def clear(self) -> None: ...


@dataclass(frozen=True)
class StepReport:
    """One update: `loss` is the mean over its weight, `grad_norm` before clipping, `step` counts from 1."""

    step: int
    epoch: int
    ends_epoch: bool
    loss: float
    learning_rate: float
    grad_norm: float
    examples: int
    tokens: int
    parts: dict[str, float]


def train(
    model: nn.Module,
    updates: Iterable[Update],
    *,
    loss: Callable[[nn.Module, Batch], Loss],
    optimizer: Steps,
    rate: Callable[[int], float],
    seed: int = 0,
    done: int = 0,
) -> Iterator[StepReport]:
    """Train until the caller stops asking.

    `rate(step)` is the learning rate of the 0-based update; `done` updates were made before. All
    randomness of an update comes from (seed, its number), so that a resumed run repeats it. Raises
    NonFiniteError before an update whose loss or gradient is not finite.
    """
    device = next(model.parameters()).device
    for number, update in enumerate(updates, done):
        torch.manual_seed(hash((seed, number)) & 0x7FFF_FFFF_FFFF_FFFF)
        total, weight, parts = 0.0, 0.0, Counter[str]()
        for batch in update.batches:
            result = loss(model, batch.to(device))
            (result.sum * optimizer.loss_scale if optimizer.loss_scale != 1.0 else result.sum).backward()
            total += float(result.sum.detach())
            weight += result.weight
            parts.update(result.parts)
        weight = weight or 1.0  # nothing was graded: the gradient is zero
        scaled = weight * optimizer.loss_scale
        norm = optimizer.gradient_norm(scaled)
        learning_rate = rate(number)
        if math.isfinite(total) and not math.isfinite(norm) and optimizer.back_off():
            learning_rate = 0.0  # fp16 overflowed: this update is left out, the next one is scaled less
        elif not (math.isfinite(total) and math.isfinite(norm)):
            raise _not_finite(number + 1, total, optimizer)
        else:
            optimizer.step(learning_rate=learning_rate, weight=scaled, norm=norm)
        optimizer.clear()
        yield StepReport(
            step=number + 1,
            epoch=update.epoch,
            ends_epoch=update.ends_epoch,
            loss=total / weight,
            learning_rate=learning_rate,
            grad_norm=norm,
            examples=sum(b.segments.count for b in update.batches),
            tokens=sum(b.tokens for b in update.batches),
            parts={name: value / weight for name, value in parts.items()},
        )


def _not_finite(step: int, total: float, optimizer: Steps) -> NonFiniteError:
    what = (
        f"the loss is {total}" if not math.isfinite(total) else f"the gradient of {', '.join(optimizer.bad_gradients()[:3])} is not finite"
    )
    optimizer.clear()
    return NonFiniteError(
        f"{what}; the update was not made",
        where=f"step {step}",
        remedy="lower training.learning_rate, or use precision fp32; the weights of the step before are kept",
    )
