"""Picking rows to label: what is asked, and that it is where the model does not know."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from luthier.workshop.labelling import learner
from luthier.workshop.labelling.picking import DOUBTS, STRATEGIES, Round, centers, pick


def unit(vectors):
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def circle(*degrees):
    return unit([[np.cos(np.radians(d)), np.sin(np.radians(d))] for d in degrees])


def asked(vectors, known, strategy, count, seed=0):
    left = np.array([i for i in range(len(vectors)) if i not in known], dtype=np.int64)
    return pick(strategy, Round(vectors, known, left, np.random.default_rng(seed)), count)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(0, 12), st.integers(1, 4), st.integers(0, 50), st.sampled_from(STRATEGIES))
def test_what_is_asked_is_open_and_asked_once(rows, known, classes, count, strategy):
    draw = np.random.default_rng(rows)
    vectors = unit(draw.normal(size=(rows, 3)))
    labels = {i: f"c{i % classes}" for i in range(min(known, rows))}
    found = asked(vectors, labels, strategy, count)
    assert len(found) == len(set(found)) == min(count, rows - len(labels))
    assert not set(found) & set(labels)
    assert found == asked(vectors, labels, strategy, count)


@pytest.mark.parametrize("strategy", DOUBTS)
def test_a_model_is_asked_where_it_does_not_know(strategy):
    vectors = circle(0, 5, 10, 90, 85, 80, 44, 46, 2, 88)
    found = asked(vectors, {0: "a", 1: "a", 2: "a", 3: "b", 4: "b", 5: "b"}, strategy, 2)
    assert set(found[:2]) <= {6, 7, 8, 9}
    assert found[0] in (6, 7) or strategy == "committee"
    alone = asked(vectors[:9], {0: "a", 1: "a", 2: "a", 3: "b", 4: "b", 5: "b"}, strategy, 1)
    assert alone[0] in (6, 7)


def test_a_batch_is_not_the_same_row_many_times():
    """Twenty copies between two classes, and one row elsewhere that is as doubtful: both are asked."""
    vectors = unit([[1, 0, 0], [0, 1, 0], *[[1, 1, 0.01 * i] for i in range(7)], [1, 1, 3]])
    assert 9 in asked(vectors, {0: "a", 1: "b"}, "margin", 2)


def test_without_two_classes_rows_lie_apart():
    vectors = circle(0, 1, 2, 120, 240)
    assert set(asked(vectors, {0: "a"}, "margin", 2)) == {3, 4}
    assert set(asked(vectors, {}, "entropy", 3)) & {3, 4} == {3, 4}


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 30), st.integers(1, 8), st.integers(0, 1000))
def test_each_center_is_the_farthest_there_is(rows, count, seed):
    vectors = unit(np.random.default_rng(seed).normal(size=(rows, 4)))
    chosen = centers(vectors, count, beside=vectors[:1])
    nearest = vectors @ vectors[0]
    for place in chosen:
        assert nearest[place] <= nearest[[i for i in range(rows) if i not in chosen]].min(initial=2) + 1e-6
        nearest = np.maximum(nearest, vectors @ vectors[place])


@pytest.mark.parametrize("classes", [2, 4])
def test_the_linear_model_is_scikit_learns(classes):
    draw = np.random.default_rng(0)
    vectors, gold = unit(draw.normal(size=(60, 5))), [f"c{i % classes}" for i in range(60)]
    found = learner.fit(vectors, gold)
    theirs = LogisticRegression(C=learner.STRENGTH, max_iter=learner.ITERATIONS, tol=learner.TOLERANCE).fit(vectors, gold)
    assert found.classes == tuple(theirs.classes_)
    np.testing.assert_allclose(found.probabilities(vectors), theirs.predict_proba(vectors), atol=1e-5)


def test_a_large_pool_is_looked_at_in_part(monkeypatch):
    monkeypatch.setattr("luthier.workshop.labelling.picking.MOST", 5)
    vectors = circle(*range(0, 300, 10))
    assert len(asked(vectors, {0: "a", 29: "b"}, "margin", 10)) == 5
