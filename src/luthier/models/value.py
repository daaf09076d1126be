"""A head that foretells what an answer will be worth, a number a token, beside a language model's own.

Enters: a language model about to be trained. Leaves: the same with `value_head`, which starts at zero, trains with it and is in its
checkpoints, and is taken off before the model is saved.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

NAME = "value_head"


def add_value_head(model: nn.Module) -> None:
    """Put the head on, where it is not."""
    if not hasattr(model, NAME):
        config = model.config.get_text_config()  # type: ignore[union-attr, operator]
        weight = next(model.parameters())
        head = nn.Linear(config.hidden_size, 1, device=weight.device, dtype=torch.float32)
        nn.init.zeros_(head.weight)
        nn.init.zeros_(head.bias)
        setattr(model, NAME, head)


def drop_value_head(model: nn.Module) -> None:
    """Take the head off, where there is one."""
    if hasattr(model, NAME):
        delattr(model, NAME)


def values_of(model: nn.Module, states: Tensor) -> Tensor:
    """What the head says of hidden states, (n, width) -> (n,) fp32."""
    head: nn.Linear = getattr(model, NAME)
    return head(states.to(head.weight.dtype))[:, 0].float()
