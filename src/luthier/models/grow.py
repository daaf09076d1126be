"""A head that has learned some labels takes others: the rows of those it knows stay as they are, bit for bit.

Enters: a model whose head has a row a label, and the labels that are wanted. Leaves: the head with a row for each of these:
the old ones by name, wherever they stand, and new ones as a fresh head begins, with the mean of the old biases, so that a new
label is at first neither above nor below the others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import torch
from torch import nn

from luthier.errors import ModelError
from luthier.models.adapters.method import head_modules
from luthier.models.heads import Head, PooledModel

SHOWN = 6
SPREAD = 0.02
"""Standard deviation of a fresh row, where the config names none."""


class Grown(NamedTuple):
    """Labels whose rows were kept, those that begin afresh (with their places), and those that nobody asks for any more."""

    kept: tuple[str, ...]
    new: dict[str, int]
    dropped: tuple[str, ...]

    def __str__(self) -> str:
        said = [f"the head keeps its rows for {len(self.kept)} labels"]
        said += [f"begins afresh for {len(self.new)}: {listed(self.new)}"] if self.new else []
        said += [f"loses those of {len(self.dropped)} that the data do not have: {listed(self.dropped)}"] if self.dropped else []
        return ", ".join(said)


def listed(names: Sequence[str] | dict[str, int]) -> str:
    """The first few of many names."""
    first = list(names)[:SHOWN]
    return ", ".join(map(repr, first)) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def known_labels(config: Any) -> tuple[str, ...]:
    """The labels that a model's config names, in the order of the head's rows."""
    names = getattr(config, "id2label", None) or {}
    return tuple(str(names[i]) for i in sorted(names, key=int))


def as_saved(wanted: Head, known: Sequence[str]) -> Head | None:
    """The head as a folder has it, where it knows some of the wanted labels but not just these; None where there is nothing to do."""
    if tuple(known) == wanted.labels or not set(known) & set(wanted.labels):
        return None
    return replace(wanted, outputs=len(known), labels=tuple(known))


def grow(model: Any, known: Sequence[str], wanted: Sequence[str]) -> Grown:
    """Give the head of a model a row for each wanted label; random numbers come from torch's generator.

    Raises ModelError for a head whose last layer has no row a label.
    """
    layers = _last_layers(model, len(known))
    if not layers:
        raise ModelError(
            f"its head cannot take other labels: no layer of it has a row for each of the {len(known)} it knows",
            where="model.head",
            remedy="let the head end in a torch.nn.Linear, or start from a model without this head",
        )
    place = {label: i for i, label in enumerate(known)}
    rows = [place.get(label, -1) for label in wanted]
    own = isinstance(model, PooledModel)
    spread = getattr(model.config, "initializer_range", None) or SPREAD
    for layer in layers:
        _put_rows(layer, rows, spread=None if own else spread)
    if hasattr(model, "num_labels"):
        model.num_labels = len(wanted)
    kept = tuple(label for label in wanted if label in place)
    return Grown(kept, {label: i for i, label in enumerate(wanted) if label not in place}, tuple(n for n in known if n not in set(wanted)))


def _put_rows(layer: nn.Linear, rows: Sequence[int], *, spread: float | None) -> None:
    """Replace the rows of a layer by old ones (a number) and fresh ones (-1): drawn with `spread`, else as torch begins a layer."""
    fresh = nn.Linear(layer.in_features, len(rows), bias=layer.bias is not None)
    old = [i for i in rows if i >= 0]
    places = [n for n, i in enumerate(rows) if i >= 0]
    with torch.no_grad():
        if spread is not None:
            fresh.weight.normal_(0.0, spread)
        fresh.to(layer.weight)
        fresh.weight[places] = layer.weight[old]
        layer.weight = nn.Parameter(fresh.weight.data, requires_grad=layer.weight.requires_grad)
        if layer.bias is not None:
            fresh.bias.fill_(layer.bias.mean())
            fresh.bias[places] = layer.bias[old]
            layer.bias = nn.Parameter(fresh.bias.data, requires_grad=layer.bias.requires_grad)
    layer.out_features = len(rows)


def _last_layers(model: nn.Module, outputs: int) -> list[nn.Linear]:
    """The linear layer that gives the outputs; beside adapters the one that is trained, and the one that it stands for."""
    found: dict[str, nn.Linear] = {}
    for name in head_modules(model):
        for path, module in model.get_submodule(name).named_modules():
            if isinstance(module, nn.Linear) and module.out_features == outputs:
                first, _, rest = path.partition(".")
                found[first + rest.partition(".")[0] if first == "modules_to_save" else first * (first == "original_module")] = module
    return list(found.values())
