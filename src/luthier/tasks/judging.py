"""How answers stand to each other: losses, rewards and scores from their log-probabilities.

Enters: for each row the log-probabilities of its answers, those under the model as it began, and which is preferred. Leaves: the
loss of each row with named figures, and scores. It knows neither text nor model.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from luthier.recipe.tasks.preference import READ
from luthier.tasks import preference_losses as losses

if TYPE_CHECKING:
    from torch import Tensor

    from luthier.recipe.tasks.preference import PreferenceOptions

REFERENCED = READ["reference"]
"""Losses that measure against the model as it began."""
MEANS = ("ipo", "simpo", "orpo")
"""Losses of log-probabilities per token."""


class Figures(NamedTuple):
    """Of each row its answers: all (rows, answers), 0 where a row has fewer.

    `ranks` (int64) order them, the higher the better, -1 where there is no answer; in kto 1 is good and 0 bad. `sums` are
    log-probabilities, `counts` graded tokens, `reference` the sums under the model as it began. In kto the last column is an
    answer to another prompt, which has no rank.
    """

    ranks: Tensor
    sums: Tensor
    counts: Tensor
    reference: Tensor


class Judged(NamedTuple):
    """The loss of each row, what it weighs, and named figures; all (rows,)."""

    loss: Tensor
    weight: Tensor
    parts: Mapping[str, Tensor]


@dataclass(frozen=True)
class Judge:
    """The loss of a recipe, by its name, with its options."""

    options: PreferenceOptions
    objective: str

    @property
    def referenced(self) -> bool:
        """Whether the loss measures against the model as it began."""
        return self.objective in REFERENCED

    def __call__(self, figures: Figures) -> Judged:
        """The loss of each row, and what is told of it."""
        return self._of_answers(figures) if self.objective == "kto" else self._of_pairs(figures)

    def values(self, figures: Figures) -> tuple[Tensor, Tensor]:
        """Log-probabilities as the loss wants them, and how far they are from the start's (themselves, without a reference)."""
        sums, reference = figures.sums, figures.reference
        if self.objective in MEANS or self.options.normalize:
            size = figures.counts.clamp_min(1)
            sums, reference = sums / size, reference / size
        return sums, sums - reference if self.referenced else sums

    def _of_pairs(self, figures: Figures) -> Judged:
        """Every answer against each that is rated lower; the pairs of a row weigh as one together."""
        import torch

        options = self.options
        row, better, worse = pairs_of(figures.ranks)
        share = 1 / torch.bincount(row, minlength=len(figures.ranks)).clamp_min(1).to(figures.sums.dtype)
        values, ratios = self.values(figures)
        ahead = ratios[row, better] - ratios[row, worse]
        if self.objective == "robust":
            each = losses.robust(ahead, beta=options.beta, smoothing=options.label_smoothing)
        elif self.objective == "ipo":
            each = losses.ipo(ahead, beta=options.beta)
        elif self.objective == "hinge":
            each = losses.hinge(ahead, beta=options.beta)
        elif self.objective == "simpo":
            each = losses.simpo(ahead, beta=options.beta, gamma=options.gamma)
        elif self.objective == "orpo":
            each = losses.orpo(values[row, better], values[row, worse], beta=options.beta)
        else:
            each = losses.sigmoid(ahead, beta=options.beta, smoothing=options.label_smoothing)
        anchor = 1.0 if self.objective == "orpo" else options.sft
        if anchor:
            each = each - anchor * figures.sums[row, better] / figures.counts[row, better].clamp_min(1)

        def by_row(value: Tensor) -> Tensor:
            return value.new_zeros(len(figures.ranks)).index_add(0, row, value * share[row])

        rewards = options.beta * ratios.detach()
        margin = rewards[row, better] - rewards[row, worse]
        told = {
            "accuracy": (margin > 0).to(margin.dtype) + 0.5 * (margin == 0),
            "margin": margin,
            "reward_chosen": rewards[row, better],
            "reward_rejected": rewards[row, worse],
            "logp_chosen": figures.sums[row, better].detach(),
            "logp_rejected": figures.sums[row, worse].detach(),
        }
        if self.referenced:
            told["kl"] = _drifted(figures, (row, better), (row, worse))
        has = torch.zeros_like(share).index_fill(0, row, 1.0)
        return Judged(by_row(each), has, {name: by_row(value) for name, value in told.items()})

    def _of_answers(self, figures: Figures) -> Judged:
        """Every answer by itself; the answers of a row weigh as one together."""
        import torch

        options = self.options
        row, column = (figures.ranks >= 0).nonzero(as_tuple=True)
        share = 1 / torch.bincount(row, minlength=len(figures.ranks)).clamp_min(1).to(figures.sums.dtype)
        _, ratios = self.values(figures)
        good = figures.ranks[row, column] > 0
        away = losses.drift(ratios[:, -1])
        each = losses.kto(
            ratios[row, column], good, away, beta=options.beta, good_weight=options.good_weight, bad_weight=options.bad_weight
        )

        def by_row(value: Tensor) -> Tensor:
            return value.new_zeros(len(figures.ranks)).index_add(0, row, value * share[row])

        has = torch.zeros_like(share).index_fill(0, row, 1.0)
        rewards, told = options.beta * ratios.detach()[row, column], {}
        for name, kind in (("good", good), ("bad", ~good)):
            weight = by_row(kind.to(rewards.dtype))
            scale = has.sum() / weight.sum().clamp_min(1e-9)  # a mean over the rows of the kind, where parts are means over all
            told[f"reward_{name}"] = by_row(rewards * kind) * scale
        told["margin"] = told["reward_good"] - told["reward_bad"]
        told["kl"] = away.detach() * has
        return Judged(by_row(each), has, told)

    def scores(self, figures: Figures, *, known: bool) -> dict[str, float]:
        """How often, and by how much, what people prefer is ahead; `likelier` needs no reference, the others where the loss has one.

        Where the reference is not known, only `likelier` and `loss_chosen` are told.
        """
        import torch

        means = figures.sums / figures.counts.clamp_min(1)
        ranks = figures.ranks
        best = ranks == 1 if self.objective == "kto" else ranks == ranks.max(1, keepdim=True).values
        found = {"loss_chosen": float(-figures.sums[best].sum() / figures.counts[best].sum().clamp_min(1))}
        if self.objective != "kto":
            row, better, worse = pairs_of(ranks)
            found["likelier"] = share_ahead(means[row, better], means[row, worse])
        if not known:
            return found if "likelier" in found else {**found, "likelier": area(means, ranks)}
        judged = self(figures._replace(reference=figures.reference.nan_to_num(0.0)))
        total = float(judged.weight.sum().clamp_min(1))
        scored = {name: float(value.sum()) / total for name, value in judged.parts.items()}
        scored = {"loss": float(torch.nan_to_num(judged.loss).sum()) / total, **scored, **found}
        if self.objective == "kto":
            scored["accuracy"] = area(self.values(figures)[1], ranks)
        return scored


def _drifted(figures: Figures, *pairs: tuple[Tensor, Tensor]) -> Tensor:
    """How many nats a token the answers have become less likely on average: an estimate of KL(start || now) on people's answers."""
    import torch

    lost = torch.stack([figures.reference[p] - figures.sums[p] for p in pairs]).detach().sum(0)
    return lost / torch.stack([figures.counts[p] for p in pairs]).sum(0)


def pairs_of(ranks: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Row, better and worse answer of every pair of a row whose ranks differ; each (pairs,)."""
    ahead = (ranks[:, :, None] > ranks[:, None, :]) & (ranks[:, None, :] >= 0)
    row, better, worse = ahead.nonzero(as_tuple=True)
    return row, better, worse


def share_ahead(better: Tensor, worse: Tensor) -> float:
    """Share of pairs in which the better one is higher; ties count half."""
    return float(((better > worse).double() + 0.5 * (better == worse)).mean()) if len(better) else 0.0


def area(values: Tensor, ranks: Tensor) -> float:
    """The chance that a good answer is above a bad one, of all rows (the area under the curve); ties count half."""
    import numpy as np

    known = ranks >= 0
    value, good = values[known].numpy(), (ranks[known] > 0).numpy()
    if good.all() or not good.any():
        return 0.5
    _, group, sizes = np.unique(value, return_inverse=True, return_counts=True)
    place = (np.cumsum(sizes) - (sizes - 1) / 2)[group]
    n = int(good.sum())
    return float((place[good].sum() - n * (n + 1) / 2) / (n * (len(good) - n)))
