"""The last layer of a classifying head: what it is given, and the weights that fit best to that.

Enters: a model with a head for classes. Leaves: its last linear layer, the inputs of that in a forward pass, and the
layer with the weights of a logistic regression.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from luthier.errors import ModelError
from luthier.models.adapters.method import head_modules

ABSENT = -30.0
"""The logit of a class without a row."""
ITERATIONS = 1000
LEAST_SPREAD = 0.01
"""Of the features' length; bf16 rounds by about half of that."""


def last_linear(model: nn.Module, outputs: int) -> nn.Linear:
    """The head's last linear layer. Raises ModelError for a head that does not end in one of so many outputs."""
    heads = [model.get_submodule(name) for name in head_modules(model)]
    layers = [m for head in heads for m in head.modules() if isinstance(m, nn.Linear)]
    if not layers or layers[-1].out_features != outputs:
        raise ModelError(
            f"the head does not end in a linear layer of {outputs} outputs, which could be fitted",
            where="model.head",
            remedy="set it to linear, or set task: classification",
        )
    return layers[-1]


@contextmanager
def inputs_of(layer: nn.Module) -> Iterator[list[Tensor]]:
    """What the layer is given in each forward pass inside."""
    seen: list[Tensor] = []
    hook = layer.register_forward_pre_hook(lambda module, given: seen.append(given[0]))
    try:
        yield seen
    finally:
        hook.remove()


def fit_classes(layer: nn.Linear, features: NDArray[np.float64], gold: NDArray[Any], *, strength: float) -> None:
    """Give the layer the weights of a multinomial logistic regression of `gold` (n,) on `features` (n, width).

    The regression sees the features less their mean, over their mean distance from it (root mean square), so that `strength`,
    the inverse of the penalty on the squared weights, means the same for every model; the layer's weights undo both. Features
    that are all alike are not spread, since that would spread their rounding. A layer without a bias cannot undo the mean,
    which then stays in. A class that `gold` lacks is never answered.
    """
    from sklearn.linear_model import LogisticRegression

    biased, center = layer.bias is not None, features.mean(axis=0)
    spread, length = (float(np.sqrt((x**2).sum(axis=1).mean())) for x in (features - center, features))
    scale = max(spread, LEAST_SPREAD * length) or 1.0
    if not biased:
        center = np.zeros_like(center)
    regression = LogisticRegression(C=strength, max_iter=ITERATIONS, fit_intercept=biased)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the last iteration is good enough where it does not converge before
        regression.fit((features - center) / scale, gold)
    weights = regression.coef_ / scale
    biases = np.ravel(regression.intercept_) - weights @ center
    if len(regression.classes_) == 2:  # one line of weights tells two classes apart
        weights, biases = np.concatenate([-weights, weights]) / 2, np.concatenate([-biases, biases]) / 2
    with torch.no_grad():
        layer.weight.zero_()
        layer.weight[regression.classes_] = torch.from_numpy(weights).to(layer.weight)
        if layer.bias is not None:
            layer.bias.fill_(ABSENT)
            layer.bias[regression.classes_] = torch.from_numpy(biases).to(layer.bias)
