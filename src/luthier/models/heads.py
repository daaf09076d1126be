"""Heads that an architecture does not bring itself: an MLP, or a user's own.

Enters: a trunk (AutoModel) and a head from pooled hidden states to outputs. Leaves: a
`PooledModel`. The default head, `linear`, needs none of this: it is the architecture's own
`AutoModelForSequenceClassification`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from luthier.errors import ModelError
from luthier.registry import load_callable

Kind = Literal["classes", "words", "span", "vector", "module", "causal", "masked", "pairs"]
"""`classes` (values for a whole text), `words` (values for each token), `span` (where an answer starts and ends),
`vector` (the pooled states themselves), `module` (a head that no architecture brings), or tokens: `causal`, `masked`, or
`pairs` (an encoder-decoder)."""


@dataclass(frozen=True)
class Head:
    """What stands on the trunk; outputs and labels are for `classes` and `words`, the problem type for `classes`."""

    kind: Kind
    outputs: int = 0
    labels: tuple[str, ...] = ()
    problem_type: str | None = None
    module: Callable[[int], nn.Module] | None = None
    """Makes the head of kind `module`, given the trunk's width."""
    pooling: Literal["first", "last", "mean"] | None = None
    """Which states of a bare trunk it reads; where the architecture's own head looks, where None."""
    trees: bool = False
    """Whether its batches are trees: several texts that begin alike."""

    @property
    def made(self) -> bool:
        """Whether it is made for the task, beside what pre-training made: it moves whatever else is frozen."""
        return self.kind in ("classes", "words", "span", "module")

    @property
    def writes(self) -> bool:
        """Whether it is the architecture's own for writing tokens, with a vocabulary."""
        return self.kind in ("causal", "pairs")

    def apart(self, name: str) -> bool:
        """Whether it stands on a bare trunk, where `name` is what the recipe calls it: nothing that transformers knows."""
        return self.kind == "module" or (self.kind == "classes" and (name != "linear" or self.pooling is not None))


class PooledModel(nn.Module):
    """A trunk, one pooled vector a segment, and a head of any shape."""

    def __init__(self, trunk: PreTrainedModel, head: nn.Module, *, pooling: Literal["first", "last", "mean"]) -> None:
        super().__init__()
        self.trunk, self.head, self.pooling, self.config = trunk, head, pooling, trunk.config


def mlp(hidden_size: int, outputs: int) -> nn.Module:
    """Two layers with a GELU between, each after dropout."""
    return nn.Sequential(nn.Dropout(0.1), nn.Linear(hidden_size, hidden_size), nn.GELU(), nn.Dropout(0.1), nn.Linear(hidden_size, outputs))


def build_head(name: str, *, hidden_size: int, outputs: int) -> nn.Module:
    """`linear`, `mlp`, or `module:callable` called with (hidden_size, outputs).

    Raises ModelError when the callable does not give a module from (n, hidden_size) to (n, outputs).
    """
    known: dict[str, Callable[[int, int], nn.Module]] = {"linear": nn.Linear, "mlp": mlp}
    make: Callable[[int, int], nn.Module] = known[name] if name in known else load_callable(name, where="model.head")
    head = make(hidden_size, outputs)
    where, remedy = "model.head", "return a torch.nn.Module mapping (n, hidden_size) to (n, outputs)"
    if not isinstance(head, nn.Module):
        raise ModelError(f"{name} returned {type(head).__name__}, not a module", where=where, remedy=remedy)
    with torch.no_grad():
        answer = head.eval()(torch.zeros(2, hidden_size))
    head.train()
    if not isinstance(answer, Tensor) or answer.shape != (2, outputs):
        shape = tuple(answer.shape) if isinstance(answer, Tensor) else type(answer).__name__
        raise ModelError(f"{name} maps (2, {hidden_size}) to {shape}, not (2, {outputs})", where=where, remedy=remedy)
    return head
