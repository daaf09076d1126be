"""Several heads on one trunk, which is run once for all of them.

Enters: a flat batch in which every segment belongs to one task or more, and the trunk's states for it. Leaves: for
each task the part of the batch that is its own, and a model whose trunk answers at once with the states of that part.
A task therefore computes its loss and its answers with the code that it has anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from luthier.models.batch import PART, Batch, segments_of
from luthier.models.heads import Head, PooledModel

MEMBER = "of"
"""The layer `of.NAME` is 1 on the segments that are a task's own."""


class Heads(nn.ModuleDict):
    """The heads by task, and for each the logarithm of its variance where losses are weighed by it (Kendall et al. 2018)."""

    def __init__(self, heads: Mapping[str, nn.Module], *, parts: Mapping[str, Head], weighed: bool) -> None:
        super().__init__(heads)
        self.parts = parts
        self.log_variance = nn.ParameterDict({n: nn.Parameter(torch.zeros(())) for n in heads}) if weighed else None


@dataclass(frozen=True)
class Parts:
    """What several tasks ask of a trunk that runs once: `states` of the batch, and each task's answer to its own part of it."""

    states: Callable[[nn.Module, Batch], Tensor]
    answers: Mapping[str, Callable[[nn.Module, Batch], Tensor]]

    def __call__(self, model: nn.Module, batch: Batch) -> dict[str, tuple[tuple[int, ...], Tensor]]:
        """For each task that has segments in the batch their rows, and what it says of them."""
        states, found = self.states(model, batch), {}
        for name, answer in self.answers.items():
            chosen = member(batch, name)
            if len(chosen):
                own, places = part_of(batch, name, chosen)
                found[name] = own.rows, answer(ready(model, name, states[places]), own)  # type: ignore[arg-type]
        return found


def heads_of(parts: Mapping[str, Head], *, weighed: bool) -> Callable[[int], nn.Module]:
    """What makes the heads of several tasks, given the trunk's width."""

    def make(width: int) -> nn.Module:
        return Heads({name: _head(part, width) for name, part in parts.items()}, parts=parts, weighed=weighed)

    return make


def _head(part: Head, width: int) -> nn.Module:
    if part.module is not None:
        return part.module(width)
    if part.kind == "vector":
        return nn.Identity()
    return nn.Sequential(nn.Dropout(0.1), nn.Linear(width, 2 if part.kind == "span" else part.outputs))


class _Ready(nn.Module):
    """Stands for a trunk whose states are known."""

    def __init__(self, states: Tensor, config: Any) -> None:
        super().__init__()
        self.states, self.config = states, config

    def forward(self, **inputs: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.states[None])


def member(batch: Batch, name: str) -> Tensor:
    """Numbers of the segments that are a task's own, (n,)."""
    mine = batch.layers.get(f"{MEMBER}.{name}")
    if mine is None:  # the examples have nothing of the task's
        return batch.segments.starts.new_zeros(0)
    return (mine[batch.segments.starts] == 1).nonzero().squeeze(1)


def part_of(batch: Batch, name: str, chosen: Tensor) -> tuple[Batch, Tensor]:
    """The chosen segments as a batch of the task's own, and the places of their tokens in the whole."""
    places = torch.isin(batch.segments.owner, chosen).nonzero().squeeze(1)
    prefix = f"{name}."
    layers = {n.removeprefix(prefix): v[places] for n, v in batch.layers.items() if n.startswith(prefix) or n == PART}
    labels = layers.pop("labels", None)
    found = replace(
        batch,
        input_ids=batch.input_ids[places],
        positions=batch.positions[places],
        token_types=None if batch.token_types is None else batch.token_types[places],
        segments=segments_of(batch.segments.lengths[chosen].tolist()).to(batch.input_ids.device),
        rows=tuple(batch.rows[i] for i in chosen.tolist()),
        targets={n.removeprefix(prefix): v[chosen] for n, v in batch.targets.items() if n.startswith(prefix)},
        labels=labels,
        layers=layers,
    )
    return found, places


def ready(model: PooledModel, name: str, states: Tensor) -> PooledModel:
    """The model of one task, its trunk run already."""
    found = PooledModel(_Ready(states, model.config), model.head[name], pooling=model.pooling)  # type: ignore[arg-type, index]
    return found.train(model.training)
