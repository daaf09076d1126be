"""What each token of an answer is credited with: from what the answers earned to what the loss reads.

Enters: a round's rollouts, judged and measured. Leaves: for each graded token its advantage, whether it counts, and what the loss
holds the new log-probabilities and values against.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from luthier.recipe.tasks.policy import PolicyOptions
from luthier.tasks import policy_losses as losses

Array = NDArray[np.float64]


@dataclass
class Rollout:
    """A prompt's answers in tokens, stop tokens included; for each answer its reward (NaN where there is none) and those of its parts.

    For each token of each answer its log-probability when it was drawn (`old`), under the model as it began, and its value, where known.
    """

    row: int
    answers: list[list[int]]
    finished: list[bool]
    rewards: list[float]
    parts: dict[str, list[float]]
    old: list[list[float]] = field(default_factory=list)
    reference: list[list[float]] = field(default_factory=list)
    value: list[list[float]] = field(default_factory=list)

    def earned(self, options: PolicyOptions) -> Array:
        """Its rewards, less what being cut off costs; (answers,)."""
        return np.array(self.rewards) - options.truncation_penalty * ~np.array(self.finished)

    def uniform(self, options: PolicyOptions) -> bool:
        """Whether what they earned tells no answer from another."""
        known = [r for r in self.earned(options).tolist() if np.isfinite(r)]
        return len(known) < 2 or max(known) - min(known) < 1e-9


Laid = dict[str, list[list[Array]]]
"""By name, of each rollout and answer, a figure for each token."""


def laid(rollouts: Sequence[Rollout], options: PolicyOptions) -> Laid:
    """Advantages and all else that the loss reads, for each token of a round's answers."""
    earned = np.array([r.earned(options) for r in rollouts])
    keep = np.isfinite(earned)
    if options.truncated == "mask":
        keep &= np.array([r.finished for r in rollouts])
    each = _by_token(rollouts, lambda r, i: np.ones(len(r.answers[i])))
    found: Laid = {
        "keep": [[ones * float(keep[n, i]) for i, ones in enumerate(row)] for n, row in enumerate(each)],
        "reference": _by_token(rollouts, lambda r, i: np.array(r.reference[i])),
    }
    if any(r.old[0] for r in rollouts):
        found["old"] = _by_token(rollouts, lambda r, i: np.array(r.old[i]))
    if options.algorithm == "ppo":
        return found | _by_value(rollouts, earned, keep, options)
    if options.penalised and options.beta:
        gone = [[sum(r.old[i]) - sum(r.reference[i]) for i in range(len(r.answers))] for r in rollouts]
        earned = earned - options.beta * np.array(gone)
    judge: Callable[..., Array] = losses.group_advantages if options.algorithm == "grpo" else losses.leave_one_out
    advantages = judge(earned, scale=options.scaled_by)
    return {**found, "advantage": [[ones * advantages[n, i] for i, ones in enumerate(row)] for n, row in enumerate(each)]}


def _by_value(rollouts: Sequence[Rollout], earned: Array, keep: NDArray[np.bool_], options: PolicyOptions) -> Laid:
    """PPO's advantages, centred and scaled over all tokens of the round that count, and what the value should have said."""
    advantages: list[list[Array]] = []
    wanted: list[list[Array]] = []
    for n, rollout in enumerate(rollouts):
        advantages.append([])
        wanted.append([])
        for i in range(len(rollout.answers)):
            rewards = -options.beta * (np.array(rollout.old[i]) - np.array(rollout.reference[i]))
            rewards[-1] += earned[n, i] if np.isfinite(earned[n, i]) else 0.0
            values = np.array(rollout.value[i])
            advantages[n].append(losses.credited(rewards, values, gae_lambda=options.gae_lambda))
            wanted[n].append(advantages[n][i] + values)
    if options.scaled_by == "batch":
        counted = [a for n, row in enumerate(advantages) for i, a in enumerate(row) if keep[n, i]]
        every = np.concatenate(counted) if counted else np.zeros(1)
        mean, deviation = every.mean(), every.std() + losses.EPSILON
        advantages = [[(a - mean) / deviation for a in row] for row in advantages]
    return {"advantage": advantages, "wanted": wanted, "value": _by_token(rollouts, lambda r, i: np.array(r.value[i]))}


def _by_token(rollouts: Sequence[Rollout], of: Callable[[Rollout, int], Array]) -> list[list[Array]]:
    return [[of(r, i) for i in range(len(r.answers))] for r in rollouts]
