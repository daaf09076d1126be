"""Figures of retrieval against scikit-learn and a reference by hand, and the losses against their equations."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import ndcg_score

from luthier.data.prepare import Record
from luthier.models.contrast import cosent, in_batch
from luthier.tasks import retrieval


def by_hand(scores: np.ndarray, right: list[set[int]]) -> np.ndarray:
    """Recall, inverse rank and nDCG from a sorted list, right texts behind wrong ones of the same score."""
    lines = []
    for row, wanted in zip(scores, right, strict=True):
        if not wanted:
            lines.append([0.0] * 6)
            continue
        order = sorted(range(len(row)), key=lambda j: (-row[j], j in wanted))
        hits = [j in wanted for j in order]
        recalls = [sum(hits[:k]) / min(k, len(wanted)) for k in (1, 5, 10)]
        gains = sum(h / math.log2(i + 2) for i, h in enumerate(hits[:10]))
        best = sum(1 / math.log2(i + 2) for i in range(min(10, len(wanted))))
        lines.append([1.0, *recalls, 1 / (hits.index(True) + 1), gains / best])
    return np.array(lines)


@given(st.integers(1, 30), st.integers(2, 30), st.integers(0, 999))
def test_figures_are_those_of_a_sorted_list(queries, texts, seed):
    draw = np.random.default_rng(seed)
    scores = draw.integers(0, 6, (queries, texts)) / 4  # many ties
    right = [set(np.flatnonzero(row).tolist()) for row in draw.random((queries, texts)) < 0.2]
    found = retrieval.figures(lambda rows: scores[rows], [np.array(sorted(r), dtype=np.int64) for r in right], texts=texts)
    np.testing.assert_allclose(found, by_hand(scores, right), atol=1e-12)


def test_ndcg_is_scikit_learns(monkeypatch):
    monkeypatch.setattr(retrieval, "CHUNK", 100)  # several chunks
    draw = np.random.default_rng(0)
    scores, right = draw.normal(size=(40, 25)), draw.random((40, 25)) < 0.3
    right[:, 0] = True
    found = retrieval.figures(lambda rows: scores[rows], [np.flatnonzero(r) for r in right], texts=25)
    theirs = [ndcg_score(r[None].astype(int), s[None], k=10) for r, s in zip(right, scores, strict=True)]
    np.testing.assert_allclose(found[:, -1], theirs, atol=1e-12)


def test_a_text_does_not_find_itself_and_one_alone_in_its_class_does_not_count():
    scores = np.eye(3) + 0.1
    found = retrieval.figures(
        lambda rows: scores[rows], [np.array([0, 1]), np.array([0, 1]), np.array([2])], texts=3, left_out=np.arange(3)
    )
    assert found[:, 0].tolist() == [1, 1, 0]
    assert found[2].sum() == 0
    assert found[0, 1] == 0  # what was right had the score of something wrong
    assert retrieval.means(np.concatenate([found[:, :1], found[:, :1] * 2.0, found[:, 1:]], 1), ("loss", *retrieval.NAMES))["loss"] == 2.0


def test_bm25_finds_by_shared_words():
    records = [Record(t, p, None, "f", i) for i, (t, p) in enumerate([
        ("how tall is the tower", "the tower is three hundred metres tall"), ("who baked bread", "bread was baked by monks"),
        ("zzz", "ships sail south"),
    ])]  # fmt: skip
    lines = retrieval.by_words("pairs", records)
    assert lines[:2, 2].tolist() == [1, 1]
    assert lines[2, 2] == 0  # no word in common: it is not credited
    assert np.isnan(lines[:, 1]).all()


def reference(a: torch.Tensor, c: torch.Tensor, allowed: torch.Tensor, temperature: float) -> torch.Tensor:
    lines = []
    for i in range(len(a)):
        s = torch.stack([torch.cosine_similarity(a[i], c[j], dim=0) / temperature for j in range(len(c)) if allowed[i, j]])
        own = torch.cosine_similarity(a[i], c[i], dim=0) / temperature
        lines.append(s.exp().sum().log() - own)
    return torch.stack(lines)


def test_in_batch_negatives_and_their_gradient_are_the_equation():
    torch.manual_seed(0)
    a = torch.randn(4, 6, dtype=torch.float64, requires_grad=True)
    c = torch.randn(6, 6, dtype=torch.float64, requires_grad=True)
    marks, others = torch.tensor([0, 1, 0, 3]), torch.tensor([10, 11, 12, 11, 10, 3])
    # 0 and 2 are the same text; 1 and 3 have the same positive; candidate 4 is 0's positive again, 5 is text 3 itself
    allowed = torch.tensor([[1, 1, 0, 1, 0, 1], [1, 1, 1, 0, 1, 1], [0, 1, 1, 1, 1, 1], [1, 0, 1, 1, 1, 0]], dtype=torch.bool)
    mine = in_batch(a, c, temperature=0.1, marks=marks, candidate_marks=others)
    plain = reference(a, c, allowed, 0.1)
    torch.testing.assert_close(mine, plain)
    for x, y in zip(torch.autograd.grad(mine.sum(), (a, c)), torch.autograd.grad(plain.sum(), (a, c)), strict=True):
        torch.testing.assert_close(x, y)
    both = in_batch(a, c, temperature=0.1, marks=marks, candidate_marks=others, symmetric=True)
    torch.testing.assert_close(both, (plain + reference(c[:4], a, allowed[:, :4].T, 0.1)) / 2)


@pytest.mark.parametrize("hard", [0, 3])
def test_losses_are_those_of_sentence_transformers(hard):
    """On vectors, through a model that gives them as they are."""
    losses = pytest.importorskip("sentence_transformers.losses")
    torch.manual_seed(0)
    size, columns = 5, 2 + (hard > 0)
    given = [torch.randn(size, 8) for _ in range(columns)]
    model = type("Given", (torch.nn.Module,), {"forward": lambda self, features: {"sentence_embedding": features["x"]}})()
    theirs = losses.MultipleNegativesRankingLoss(model, scale=20.0)([{"x": x} for x in given], torch.zeros(size))
    marks = torch.arange(size * columns)
    mine = in_batch(given[0], torch.cat(given[1:]), temperature=0.05, marks=marks[:size], candidate_marks=marks[size:])
    torch.testing.assert_close(mine.mean(), theirs)
    labels = torch.rand(size)
    ranked = losses.CoSENTLoss(model, scale=20.0)([{"x": x} for x in given[:2]], labels)
    torch.testing.assert_close(cosent(torch.cosine_similarity(*given[:2]), labels, temperature=0.05), ranked)


def test_cosent_asks_for_the_order_alone():
    cosines = torch.tensor([0.9, 0.5, 0.1])
    right, wrong = (cosent(cosines, torch.tensor(s), temperature=0.05) for s in ([1.0, 0.5, 0.0], [0.0, 0.5, 1.0]))
    assert right < 0.01
    assert wrong > 10
    assert cosent(cosines, torch.tensor([0.5, 0.5, 0.5]), temperature=0.05) == 0
