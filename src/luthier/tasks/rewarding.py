"""How rewards stand to each other: the loss of each row with named figures, and scores.

Enters: for each row the rewards of its answers, and which is preferred. Leaves: the loss of each row, and how often, and by how
much, what people prefer is ahead; and whether length alone would say so. It knows neither text nor model.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from luthier.tasks import reward_losses as losses
from luthier.tasks.judging import Judged, area, pairs_of

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.recipe.tasks.reward import RewardLoss, RewardOptions


class Rewards(NamedTuple):
    """Of each row its answers: all (rows, answers), 0 where a row has fewer; and the margin, (rows,).

    `ranks` (int64) order them, the higher the better, -1 where there is no answer; with the logistic loss 1 is good and 0 bad.
    """

    ranks: Tensor
    rewards: Tensor
    margin: Tensor


@dataclass(frozen=True)
class Appraiser:
    """The loss of a recipe, by its name, with its options."""

    options: RewardOptions
    objective: RewardLoss

    def __call__(self, found: Rewards) -> Judged:
        """The loss of each row, and what is told of it."""
        return self._of_answers(found) if self.objective == "logistic" else self._of_lists(found)

    def _of_lists(self, found: Rewards) -> Judged:
        """Every answer against those that are rated lower; the pairs of a row weigh as one together, a list as one."""
        import torch

        row, better, worse = pairs_of(found.ranks)
        share = 1 / torch.bincount(row, minlength=len(found.ranks)).clamp_min(1).to(found.rewards.dtype)

        def by_row(value: Tensor) -> Tensor:
            return value.new_zeros(len(found.ranks)).index_add(0, row, value * share[row])

        above, below = found.rewards[row, better], found.rewards[row, worse]
        if self.objective == "plackett_luce":
            loss = losses.plackett_luce(found.rewards, found.ranks)
        else:
            loss = by_row(losses.bradley_terry(above - below - found.margin[row], smoothing=self.options.label_smoothing))
        if self.options.center:
            loss = loss + self.options.center * by_row(losses.off_center(above, below))
        above, below = above.detach(), below.detach()
        margin = above - below
        told = {
            "accuracy": (margin > 0).to(margin.dtype) + 0.5 * (margin == 0),
            "margin": margin,
            "reward_chosen": above,
            "reward_rejected": below,
        }
        has = torch.zeros_like(share).index_fill(0, row, 1.0)
        return Judged(loss * has, has, {name: by_row(value) for name, value in told.items()})

    def _of_answers(self, found: Rewards) -> Judged:
        """Every answer by itself; the answers of a row weigh as one together."""
        import torch

        row, column = (found.ranks >= 0).nonzero(as_tuple=True)
        share = 1 / torch.bincount(row, minlength=len(found.ranks)).clamp_min(1).to(found.rewards.dtype)
        rewards, good = found.rewards[row, column], found.ranks[row, column] > 0

        def by_row(value: Tensor) -> Tensor:
            return value.new_zeros(len(found.ranks)).index_add(0, row, value * share[row])

        has, told = torch.zeros_like(share).index_fill(0, row, 1.0), {}
        for name, kind in (("good", good), ("bad", ~good)):
            weight = by_row(kind.to(rewards.dtype))
            scale = has.sum() / weight.sum().clamp_min(1e-9)  # a mean over the rows of the kind, where parts are means over all
            told[f"reward_{name}"] = by_row(rewards.detach() * kind) * scale
        told["margin"] = told["reward_good"] - told["reward_bad"]
        return Judged(by_row(losses.logistic(rewards, good)), has, told)

    def scores(self, found: Rewards, lengths: Tensor) -> dict[str, float]:
        """How often, and by how much, what people prefer is ahead; and how rewards go with the `lengths` of answers, (rows, answers).

        The accuracy is that of pairs, ties half; of good and bad answers the chance that a good one is above a bad one.
        """
        judged = self(found)
        total = float(judged.weight.sum().clamp_min(1))
        scored = {"loss": float(judged.loss.sum()) / total, **{n: float(v.sum()) / total for n, v in judged.parts.items()}}
        if self.objective == "logistic":
            scored["accuracy"] = area(found.rewards, found.ranks)
        return {**scored, "length_correlation": length_correlation(found, lengths)}


def length_correlation(found: Rewards, lengths: Tensor) -> float:
    """Pearson's correlation of rewards with lengths, both as differences from the mean of a prompt's answers; 0 where nothing differs.

    Of rows with one answer each, from the mean of all.
    """
    known = (found.ranks >= 0).to(found.rewards.dtype)
    if float(known.sum(1).max()) <= 1:
        known = known.T.sum(0, keepdim=True)
        values = [v.sum(1)[None] for v in (found.rewards, lengths)]
    else:
        values = [found.rewards, lengths]
    size = known.sum(1, keepdim=True).clamp_min(1)
    a, b = ((v - (v * known).sum(1, keepdim=True) / size) * known for v in values)
    scale = float((a.square().sum() * b.square().sum()).sqrt())
    return float((a * b).sum()) / scale if scale > 1e-12 else 0.0
