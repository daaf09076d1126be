"""The best tree of a sentence: always a tree with one root word, never worse than any other."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from luthier.tasks.trees import best_tree, fault

EDGES = [-np.inf, np.inf, np.nan, -1e308, 1e308, 1.0, 1.0, 0.0, -1.0, 2.5]


def every_tree(count: int) -> np.ndarray:
    """All trees over so many words, (trees, words)."""
    candidates = np.array(list(itertools.product(range(count + 1), repeat=count)))
    one = candidates[(candidates == 0).sum(1) == 1]
    return np.array([heads for heads in one.tolist() if fault(heads) is None])


TREES = {count: every_tree(count) for count in range(1, 7)}


@pytest.mark.parametrize(("count", "trees"), [(1, 1), (2, 2), (3, 9), (4, 64), (5, 625), (6, 7776)])
def test_there_are_as_many_trees_as_cayley_counted(count, trees):
    assert len(TREES[count]) == trees == count ** (count - 1)


@pytest.mark.parametrize(
    ("heads", "words"),
    [
        ((0, 0), "2 words hang from the root"),
        ((2, 1), "0 words hang from the root"),
        ((0, 3, 2), "cycle through word"),
        ((0, 2), "cycle through word 2"),
        ((0, 5), "head of word 2 is 5"),
    ],
)
def test_what_is_no_tree_is_told(heads, words):
    assert words in fault(heads)


def drawn(draw: np.random.Generator, count: int, number: int) -> np.ndarray:
    """Scores of a kind that changes with the number: plain, tied, forbidden, huge and tiny side by side."""
    scores = draw.normal(size=(count, count + 1))
    if number % 2:
        scores = np.round(scores)
    if number % 3 == 0:
        scores[draw.random(scores.shape) < 0.4] = -np.inf
    if number % 5 == 0:
        scores *= 10.0 ** draw.integers(-3, 300, scores.shape)
    return scores


def test_ten_thousand_matrices_give_trees():
    draw = np.random.default_rng(0)
    for number in range(10_000):
        count = 1 + int(40 * draw.random() ** 2)
        heads = best_tree(drawn(draw, count, number))
        assert heads.shape == (count,)
        assert fault(heads.tolist()) is None


def quality(scores: np.ndarray, heads: np.ndarray) -> np.ndarray:
    """For each of many trees the forbidden arcs, and the sum of the others' scores."""
    taken = scores[np.arange(scores.shape[0]), heads - 0]
    forbidden = taken == -np.inf
    return np.stack([-forbidden.sum(-1), np.where(forbidden, 0.0, taken).sum(-1)], -1)


def test_no_tree_is_better_by_exhaustive_search():
    draw = np.random.default_rng(1)
    for number in range(1500):
        count = 1 + number % 6
        scores = drawn(draw, count, number)
        largest = np.abs(scores[np.isfinite(scores)]).max(initial=1.0)
        every, mine = quality(scores, TREES[count]), quality(scores, best_tree(scores))
        allowed = every[:, 0].max()
        assert mine[0] == allowed
        assert mine[1] == pytest.approx(every[every[:, 0] == allowed, 1].max(), abs=1e-9 * largest)


def test_one_root_word_costs_no_digits():
    """Both words would rather hang from the root; which one may is decided by a difference far below a large penalty's digits."""
    tiny = 1e-12
    scores = np.array([[5.0, 0.0, 1.0], [5.0 + tiny, 1.0, 0.0]])
    assert best_tree(scores).tolist() == [2, 0]
    scores = np.array([[5.0 + tiny, 0.0, 1.0], [5.0, 1.0, 0.0]])
    assert best_tree(scores).tolist() == [0, 1]


@settings(max_examples=200, deadline=None)
@given(st.integers(1, 12).flatmap(lambda n: arrays.arrays(np.float64, (n, n + 1), elements=st.sampled_from(EDGES))))
def test_any_numbers_give_a_tree(scores):
    before = scores.copy()
    assert fault(best_tree(scores).tolist()) is None
    np.testing.assert_array_equal(scores, before)


def test_a_words_own_column_is_not_looked_at():
    draw = np.random.default_rng(2)
    for own in (np.inf, -np.inf, np.nan, 1e9):
        scores = draw.normal(size=(7, 8))
        expected = best_tree(scores)
        scores[np.arange(7), np.arange(1, 8)] = own
        assert best_tree(scores).tolist() == expected.tolist()


def test_tensors_of_several_sentences_become_heads():
    import torch

    from luthier.tasks.trees import on_tensors

    draw = np.random.default_rng(3)
    scores = torch.tensor(draw.normal(size=(3, 6, 6)))
    sizes = torch.tensor([6, 2, 4])
    heads = on_tensors()(scores, sizes)
    assert heads.shape == (3, 6)
    for line, own, size in zip(heads, scores, sizes.tolist(), strict=True):
        assert line[1:size].tolist() == best_tree(own[1:size, :size].numpy()).tolist()
        assert not line[size:].any()
