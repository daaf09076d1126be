"""Losses and advantages of policy optimisation, as plain functions of log-probabilities and rewards.

Enters: of each token of an answer its log-probability now (`new`), when it was drawn (`old`) and under the model as it began
(`reference`), all (tokens,), with `owner` (tokens,), the answer it belongs to; and of each answer its reward. Leaves: the loss of
each token, or the advantage of each answer. NaN is the reward of an answer that could not be judged: it has no advantage.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Array = NDArray[np.float64]
EPSILON = 1e-4
"""Added to deviations before dividing by them, as in the published code."""


def group_advantages(rewards: Array, *, scale: Literal["group", "batch", "none"]) -> Array:
    """Rewards less the mean of each prompt's answers, divided by a deviation; (prompts, answers).

    GRPO (Shao et al. 2024, DeepSeekMath, sec. 4.1.2) divides by the group's own, which favours prompts that are nearly
    solved; Dr. GRPO (Liu et al. 2025) by nothing.
    """
    with np.errstate(invalid="ignore"):
        found = rewards - _mean(rewards)
    return _scaled(found, rewards, scale)


def leave_one_out(rewards: Array, *, scale: Literal["group", "batch", "none"]) -> Array:
    """Rewards less the mean of the others', divided by a deviation; (prompts, answers).

    RLOO (Ahmadian et al. 2024, Back to Basics, eq. 8). An answer without others gets nothing.
    """
    known = np.isfinite(rewards)
    count = known.sum(1, keepdims=True)
    rest = (np.where(known, rewards, 0.0).sum(1, keepdims=True) - np.where(known, rewards, 0.0)) / np.maximum(count - 1, 1)
    return _scaled(np.where(known & (count > 1), rewards - rest, np.nan), rewards, scale)


def _mean(rewards: Array) -> Array:
    known = np.isfinite(rewards)
    mean: Array = np.where(known, rewards, 0.0).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True), 1)
    return mean


def _scaled(found: Array, rewards: Array, scale: Literal["group", "batch", "none"]) -> Array:
    """Advantages over the deviation of what they come from; NaN becomes 0."""
    if scale == "none":
        return np.nan_to_num(found)
    known = np.isfinite(rewards)
    if scale == "batch":
        deviation = np.full((len(rewards), 1), rewards[known].std(ddof=1) if known.sum() > 1 else 0.0)
    else:
        centred = np.where(known, rewards - _mean(rewards), 0.0)
        deviation = np.sqrt((centred**2).sum(1, keepdims=True) / np.maximum(known.sum(1, keepdims=True) - 1, 1))
    scaled: Array = np.nan_to_num(found / (deviation + EPSILON))
    return scaled


def credited(rewards: Array, values: Array, *, gae_lambda: float) -> Array:
    """The advantage of each token of one answer, by generalised advantage estimation without discounting; (tokens,).

    A_t = sum over l of lambda^l d_(t+l), d_t = r_t + V_(t+1) - V_t (Schulman et al. 2016, eq. 16, gamma = 1); `values` are those
    before each token, and there is none after the last.
    """
    surprise = rewards + np.append(values[1:], 0.0) - values
    found, carried = np.zeros_like(surprise), 0.0
    for place in range(len(surprise) - 1, -1, -1):
        found[place] = carried = surprise[place] + gae_lambda * carried
    return found


def ratios(new: Tensor, old: Tensor, owner: Tensor, *, of: Literal["token", "sequence", "mean"], answers: int) -> Tensor:
    """pi(y)/pi_old(y) for each token: its own, its answer's whole one, or the geometric mean over its answer; (tokens,).

    Of each token: PPO, GRPO. Of the answer: RLOO, whose action is the whole answer. The mean: GSPO (Zheng et al. 2025, eq. 7).
    """
    moved = new - old
    if of == "token":
        return moved.exp()
    whole = moved.new_zeros(answers).index_add(0, owner, moved)
    if of == "mean":
        whole = whole / torch.bincount(owner, minlength=answers).clamp_min(1)
    return whole.exp()[owner]


def clipped(ratio: Tensor, advantage: Tensor, *, low: float, high: float, most: float | None) -> Tensor:
    """-min(w A, clip(w, 1 - low, 1 + high) A) of each token.

    PPO (Schulman et al. 2017, eq. 7); a `high` above `low` is DAPO's (Yu et al. 2025, eq. 10), and `most` bounds w where A < 0
    (Ye et al. 2020, dual clip).
    """
    inside = ratio.clamp(1 - low, 1 + high)
    return -torch.minimum((ratio if most is None else ratio.clamp_max(most)) * advantage, inside * advantage)


def outside(ratio: Tensor, advantage: Tensor, *, low: float, high: float) -> Tensor:
    """Which tokens the clip leaves without a gradient, (tokens,) bool."""
    return ((ratio < 1 - low) & (advantage < 0)) | ((ratio > 1 + high) & (advantage > 0))


def divergence(new: Tensor, reference: Tensor) -> Tensor:
    """An estimate of KL(pi || pi_ref) at each token that is never below 0: r - log r - 1, r = pi_ref/pi (Schulman 2020, k3)."""
    gone = reference - new
    return gone.exp() - gone - 1


def value_loss(value: Tensor, old: Tensor, wanted: Tensor, *, clip: float) -> Tensor:
    """max((V - R)^2, (clip(V, V_old +- c) - R)^2) / 2 of each token (Schulman et al. 2017's code; Ouyang et al. 2022)."""
    near = old + (value - old).clamp(-clip, clip)
    return torch.maximum((value - wanted).square(), (near - wanted).square()) / 2
