"""Losses of reward models, as plain functions of rewards.

Enters: the rewards r(x, y) of answers y to a prompt x. Leaves: the loss of each pair, list or answer. Below, y_w is preferred to
y_l, and s is the logistic function.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def bradley_terry(ahead: Tensor, *, smoothing: float = 0.0) -> Tensor:
    """-(1 - e) log s(h) - e log s(-h), h = r(y_w) - r(y_l) - m, with a margin m that may be 0; (pairs,) in and out.

    Bradley and Terry 1952; as a loss Ouyang et al. 2022, InstructGPT, eq. 1; the margin is that of Touvron et al. 2023, Llama 2,
    eq. 2. With `smoothing` e, the share of pairs that are the wrong way round (Mitchell 2023, A note on DPO with noisy
    preferences, eq. 3, where h is a difference of rewards too).
    """
    return -(1 - smoothing) * F.logsigmoid(ahead) - smoothing * F.logsigmoid(-ahead)


def off_center(better: Tensor, worse: Tensor) -> Tensor:
    """(r(y_w) + r(y_l))^2: without it only differences of rewards count (Eisenstein et al. 2023, Helping or Herding?); (pairs,)."""
    return (better + worse).square()


def plackett_luce(rewards: Tensor, ranks: Tensor) -> Tensor:
    """-sum over the answers k of a list of r_k - log(exp(r_k) + sum of exp(r_j) over those ranked lower); (rows, answers) to (rows,).

    The likelihood of an order (Plackett 1975, The Analysis of Permutations; of rewards: Rafailov et al. 2023, app. A.3). Answers of
    one rank are not set against each other; with two answers it is `bradley_terry`. `ranks` are the higher the better, -1 where a
    row has no answer.
    """
    lower = (ranks[:, :, None] > ranks[:, None, :]) & (ranks[:, None, :] >= 0)
    against = lower | torch.eye(ranks.shape[1], dtype=torch.bool, device=ranks.device)
    each = rewards[:, None, :].expand_as(against).masked_fill(~against, -torch.inf).logsumexp(2) - rewards
    return (each * (ranks >= 0)).sum(1)


def logistic(rewards: Tensor, good: Tensor) -> Tensor:
    """-log s(r) for good answers, -log s(-r) for bad ones: logistic regression on the label; (answers,) in and out, `good` bool."""
    return -F.logsigmoid(torch.where(good, rewards, -rewards))
