"""Losses that compare texts: the vectors of a batch, and how near those that belong together are.

Enters: a batch whose examples hold several texts (a layer `part` numbers them), and the vectors of its segments.
Leaves: nats of each example. What a text is compared with are the other texts of the same forward pass.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import cosine_similarity, cross_entropy, normalize, pad

from luthier.errors import Fault, RecipeError
from luthier.models.batch import PART, Batch, Loss


def parts_of(batch: Batch) -> list[Tensor]:
    """For each part its segments, in the order of the batch's rows: (examples,) for the first two, fewer where examples lack it.

    Raises RecipeError where a text and what belongs to it are one segment, so that nothing could be compared.
    """
    part = batch.layers[PART][batch.segments.last]
    rows = torch.tensor(batch.rows, device=part.device)
    found = []
    for number in range(int(part.max()) + 1):
        places = (part == number).nonzero().squeeze(1)
        found.append(places[rows[places].argsort(stable=True)])
    if len(found) < 2 or not len(found[0]) or len(found[0]) != len(found[1]):
        fault = Fault(
            "the texts of an example do not come apart in this batch", "task", "train the embedding alone, not as one of several tasks"
        )
        raise RecipeError([fault])
    return found


def in_batch(
    anchors: Tensor, candidates: Tensor, *, temperature: float, marks: Tensor, candidate_marks: Tensor, symmetric: bool = False
) -> Tensor:
    """Nats of each anchor finding its positive among all candidates, (n,).

    `anchors` (n, width); `candidates` (m, width): the n positives in the same order, then texts that are negatives for
    all. With s = cosine / temperature, nats_i = -log(exp s_ii / sum_j exp s_ij): the multiple negatives ranking loss
    (Henderson et al. 2017), InfoNCE (van den Oord et al. 2018, eq. 4), with hard negatives among the
    candidates (Karpukhin et al. 2020, eq. 2). `symmetric` takes the mean with the same from positives to anchors
    (Radford et al. 2021, fig. 3).

    Texts with equal marks are the same: a candidate is left out for an anchor where it is that anchor's positive or the
    anchor itself, again, or the positive of the same anchor elsewhere.
    """
    scores = normalize(anchors, dim=1) @ normalize(candidates, dim=1).T / temperature
    count, own = len(anchors), torch.arange(len(anchors), device=anchors.device)
    same = (candidate_marks[None] == candidate_marks[:count, None]) | (candidate_marks[None] == marks[:, None])
    same |= pad(marks[None] == marks[:, None], (0, len(candidates) - count))
    same[own, own] = False
    nats = cross_entropy(scores.masked_fill(same, -torch.inf), own, reduction="none")
    if not symmetric:
        return nats
    back = scores[:, :count].masked_fill(same[:, :count], -torch.inf).T
    return (nats + cross_entropy(back, own, reduction="none")) / 2


def of_classes(vectors: Tensor, marks: Tensor, *, temperature: float) -> Tensor:
    """Nats of each text finding the others of its class among all others of the batch, (n,); 0 for one that is alone in its class.

    `vectors` (n, width), `marks` (n,) their classes. With s = cosine / temperature and P(i) the others of i's class,
    nats_i = -mean over p in P(i) of log(exp s_ip / sum_{a != i} exp s_ia): Khosla et al. 2020, eq. 2.
    """
    unit, own = normalize(vectors, dim=1), torch.eye(len(vectors), dtype=torch.bool, device=vectors.device)
    scores = (unit @ unit.T / temperature).masked_fill(own, -torch.inf)
    alike = (marks[:, None] == marks[None]) & ~own
    logs = (scores - torch.logsumexp(scores, 1, keepdim=True)).masked_fill(~alike, 0.0)
    return -logs.sum(1) / alike.sum(1).clamp_min(1)


def cosent(cosines: Tensor, scores: Tensor, *, temperature: float) -> Tensor:
    """How far pairs of texts are from the order of their scores: log(1 + sum exp((cos_j - cos_i) / temperature)).

    The sum goes over all i, j whose scores say that pair i is nearer than pair j (Su 2022, CoSENT). A scalar.
    """
    gaps = (cosines[None] - cosines[:, None]) / temperature
    wrong = gaps.masked_fill(scores[:, None] <= scores[None], -torch.inf)
    return torch.logsumexp(pad(wrong.flatten(), (1, 0)), 0)


def ranking_loss(vectors: Tensor, batch: Batch, *, temperature: float, symmetric: bool) -> Loss:
    """In-batch negatives over a batch whose layer `mark` says which texts are the same; the weight is its examples."""
    marks, (own, *others) = batch.layers["mark"][batch.segments.last], parts_of(batch)
    among = torch.cat(others)
    nats = in_batch(
        vectors[own], vectors[among], marks=marks[own], candidate_marks=marks[among], temperature=temperature, symmetric=symmetric
    )  # fmt: skip
    return Loss(nats.sum(), float(len(own)), {"candidates": float(len(own) * len(among))})


def score_loss(vectors: Tensor, batch: Batch, *, temperature: float | None) -> Loss:
    """CoSENT over the batch, counted once for each pair; without a temperature the squared difference of cosine and score.

    The latter is the regression of Reimers and Gurevych (2019, sec. 3).
    """
    own, other = parts_of(batch)
    cosines, gold, size = cosine_similarity(vectors[own], vectors[other]), batch.targets["scores"][own], float(len(own))
    if temperature is None:
        return Loss(((cosines - gold) ** 2).sum(), size)
    return Loss(cosent(cosines, gold, temperature=temperature) * size, size, {"candidates": size * size})
