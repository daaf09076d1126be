"""Losses of preferences, as plain functions of log-probabilities.

Enters: for each pair the log-probability of the chosen and of the rejected answer, log pi(y|x), summed over its tokens or a
mean of them, and where the loss has a reference the same under the model as it began, log pi_ref(y|x); all (n,). Leaves: the
loss of each, (n,). Below, h = log pi(y_w)/pi_ref(y_w) - log pi(y_l)/pi_ref(y_l), and s is the logistic function.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


def sigmoid(h: Tensor, *, beta: float, smoothing: float = 0.0) -> Tensor:
    """-(1 - e) log s(beta h) - e log s(-beta h).

    DPO (Rafailov et al. 2023, Direct Preference Optimization, eq. 7); with `smoothing` e, the share of pairs that are the wrong way
    round, the conservative form (Mitchell 2023, A note on DPO with noisy preferences, eq. 3). Without a reference h is the
    difference of the policy's log-probabilities, and the loss is CPO's (Xu et al. 2024, Contrastive Preference Optimization, eq. 3).
    """
    return -(1 - smoothing) * F.logsigmoid(beta * h) - smoothing * F.logsigmoid(-beta * h)


def robust(h: Tensor, *, beta: float, smoothing: float) -> Tensor:
    """(-(1 - e) log s(beta h) + e log s(-beta h)) / (1 - 2 e): unbiased where a share e of the pairs is the wrong way round.

    Chowdhury et al. 2024, Provably Robust DPO, eq. 12.
    """
    return (-(1 - smoothing) * F.logsigmoid(beta * h) + smoothing * F.logsigmoid(-beta * h)) / (1 - 2 * smoothing)


def hinge(h: Tensor, *, beta: float) -> Tensor:
    """max(0, 1 - beta h): Zhao et al. 2023, SLiC-HF, with the margin on h as in Liu et al. 2024, RSO, eq. 7."""
    return torch.relu(1 - beta * h)


def ipo(h: Tensor, *, beta: float) -> Tensor:
    """(h - 1 / (2 beta))^2, with h of means per token.

    Azar et al. 2024, A General Theoretical Paradigm, eq. 17, where beta is tau; that means are meant is what its authors told TRL.
    """
    return (h - 1 / (2 * beta)).square()


def simpo(h: Tensor, *, beta: float, gamma: float) -> Tensor:
    """-log s(beta h - gamma), with h the difference of the policy's log-probabilities per token: Meng et al. 2024, SimPO, eq. 6."""
    return -F.logsigmoid(beta * h - gamma)


def orpo(chosen: Tensor, rejected: Tensor, *, beta: float) -> Tensor:
    """-beta log s(log odds(y_w) - log odds(y_l)), odds = p / (1 - p), of log-probabilities per token.

    Hong et al. 2024, ORPO, eq. 4 and 7, where beta is lambda; the likelihood of the chosen answer, eq. 6, is added to it.
    """
    odds = (chosen - rejected) - (_log1mexp(chosen) - _log1mexp(rejected))
    return -beta * F.logsigmoid(odds)


def kto(ratio: Tensor, good: Tensor, drift: Tensor, *, beta: float, good_weight: float, bad_weight: float) -> Tensor:
    """w_good (1 - s(beta (r - z))) for good answers, w_bad (1 - s(beta (z - r))) for bad ones.

    `ratio` is r = log pi(y)/pi_ref(y), `good` bool, both (n,), and `drift` z, the estimate of KL(pi || pi_ref).
    Ethayarajh et al. 2024, KTO, eq. 8.
    """
    gain = beta * (ratio - drift)
    return torch.where(good, good_weight * (1 - torch.sigmoid(gain)), bad_weight * (1 - torch.sigmoid(-gain)))


def drift(ratios: Tensor) -> Tensor:
    """KTO's z, max(0, mean log pi(y')/pi_ref(y')) over answers y' to other prompts (ibid., sec. 4.1), without a gradient."""
    return ratios.detach().mean().clamp_min(0)


def _log1mexp(x: Tensor) -> Tensor:
    """log(1 - exp(x)) for x < 0 (Maechler 2012, Accurately computing log(1 - exp(-|a|)), eq. 7)."""
    x = x.clamp_max(-1e-7)  # at 0, an answer that is certain, neither the value nor the gradient would be finite
    near = x > -0.6931471805599453
    return torch.where(near, torch.log(-torch.expm1(torch.where(near, x, -torch.ones_like(x)))), torch.log1p(-torch.exp(x)))
