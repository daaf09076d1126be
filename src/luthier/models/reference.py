"""The model as it was when training began, for what is measured against it.

Enters: a model about to be trained. Leaves: its starting values of what trains, put in for a moment; with adapters these are a few
megabytes, with a whole model a copy.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Began:
    """Starting values of all that trains."""

    def __init__(self, model: nn.Module) -> None:
        self._values = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}

    @property
    def bytes(self) -> int:
        """What the copy takes."""
        return sum(v.numel() * v.element_size() for v in self._values.values())

    @contextmanager
    def again(self, model: nn.Module) -> Iterator[None]:
        """The model as it began, without gradients or dropout, while inside."""
        with having(model, self._values):
            yield


@contextmanager
def having(model: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """The model with other values of some parameters, without gradients or dropout, while inside."""
    parameters = dict(model.named_parameters())
    now, training = {n: parameters[n].data for n in values}, model.training
    try:
        for name, value in values.items():
            parameters[name].data = value
        model.eval()
        with torch.no_grad():
            yield
    finally:
        model.train(training)
        for name, data in now.items():
            parameters[name].data = data
