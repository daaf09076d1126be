"""Scores equal scikit-learn's, losses equal torch's."""

from __future__ import annotations

import numpy as np
import pytest
import sklearn.metrics as sk
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from luthier.tasks import metrics


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 6), st.integers(2, 60), st.integers(0, 10_000))
def test_single_label_equals_scikit_learn(classes, rows, seed):
    draw = np.random.default_rng(seed)
    gold, logits = draw.integers(0, classes, rows), draw.normal(size=(rows, classes))
    found, predicted = metrics.single_label(gold, logits), logits.argmax(1)
    assert found["accuracy"] == pytest.approx(sk.accuracy_score(gold, predicted))
    for average in ("macro", "micro", "weighted"):
        p, r, f, _ = sk.precision_recall_fscore_support(gold, predicted, average=average, zero_division=0)
        assert found[f"precision_{average}"] == pytest.approx(p)
        assert found[f"recall_{average}"] == pytest.approx(r)
        assert found[f"f1_{average}"] == pytest.approx(f)
    assert found["loss"] == pytest.approx(float(torch.nn.functional.cross_entropy(torch.tensor(logits), torch.tensor(gold))))


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 5), st.integers(1, 40), st.integers(0, 10_000))
def test_multi_label_equals_scikit_learn(labels, rows, seed):
    draw = np.random.default_rng(seed)
    gold, logits = draw.integers(0, 2, (rows, labels)).astype(float), draw.normal(size=(rows, labels))
    found = metrics.multi_label(gold, logits, 0.5)
    predicted = (logits >= 0).astype(int)
    assert found["accuracy"] == pytest.approx(float((predicted == gold).all(1).mean()))
    p, r, f, _ = sk.precision_recall_fscore_support(gold.reshape(rows, -1), predicted, average="micro", zero_division=0)
    if labels > 1:
        assert (found["precision_micro"], found["recall_micro"], found["f1_micro"]) == pytest.approx((p, r, f))
    expected = torch.nn.functional.binary_cross_entropy_with_logits(torch.tensor(logits), torch.tensor(gold))
    assert found["loss"] == pytest.approx(float(expected))


@given(st.integers(3, 60), st.integers(0, 10_000))
def test_regression_equals_scipy_and_scikit_learn(rows, seed):
    draw = np.random.default_rng(seed)
    gold = draw.normal(size=rows).round(1)
    outputs = gold[:, None] + draw.normal(size=(rows, 1))
    found = metrics.regression(gold, outputs)
    if len(set(gold)) > 1:
        assert found["pearson"] == pytest.approx(stats.pearsonr(gold, outputs[:, 0])[0])
        assert found["spearman"] == pytest.approx(stats.spearmanr(gold, outputs[:, 0])[0])
        assert found["r2"] == pytest.approx(sk.r2_score(gold, outputs[:, 0]))
    assert found["rmse"] == pytest.approx(sk.root_mean_squared_error(gold, outputs[:, 0]))
    assert found["mae"] == pytest.approx(sk.mean_absolute_error(gold, outputs[:, 0]))


def test_calibration_error_by_hand():
    confidence, right = np.array([0.95, 0.95, 0.55, 0.55]), np.array([1.0, 1.0, 1.0, 0.0])
    assert metrics.calibration_error(confidence, right) == pytest.approx(0.5 * 0.05 + 0.5 * 0.05)
    assert metrics.calibration_error(np.ones(5), np.ones(5)) == 0.0


def _task(kind, **options):
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.classification import ClassificationOptions
    from luthier.tasks.classification import Classification

    labels = ["score"] if kind == "regression" else ["a", "b", "c"]
    return Classification(ClassificationOptions(**options), Data(train=["none"]), kind=kind, labels=labels)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_over_any_cut_of_an_update_is_torchs_own_mean(monkeypatch, weighted, smoothing):
    from luthier.data.prepare import Record
    from luthier.models import forward
    from luthier.models.batch import collate

    torch.manual_seed(0)
    logits, gold = torch.randn(11, 3), torch.randint(0, 3, (11,))
    task = _task("single_label", label_smoothing=smoothing, class_weights={"a": 0.5, "c": 2.0} if weighted else "none")
    task.fit([Record("t", None, int(g), "f", i) for i, g in enumerate(gold)])
    weights = torch.tensor([0.5, 1.0, 2.0]) if weighted else None
    expected = torch.nn.functional.cross_entropy(logits, gold, weight=weights, label_smoothing=smoothing)
    total = weight = 0.0
    for part in (range(4), range(4, 5), range(5, 11)):
        rows = list(part)
        batch = collate([{"input_ids": [1]} for _ in rows], rows)
        batch.targets["labels"] = gold[rows]
        monkeypatch.setattr(forward, "pooled_logits", lambda model, batch, layout, rows=rows: logits[rows])
        found = task.loss(None)(None, batch)
        total, weight = total + found.sum.item(), weight + found.weight
    assert total / weight == pytest.approx(expected.item(), abs=1e-6)


def test_balanced_weights_equal_scikit_learn():
    from sklearn.utils.class_weight import compute_class_weight

    from luthier.data.prepare import Record

    targets = [0] * 10 + [1] * 3 + [2] * 7
    task = _task("single_label", class_weights="balanced")
    task.fit([Record("t", None, t, "f", 1) for t in targets])
    assert task.class_weights == pytest.approx(list(compute_class_weight("balanced", classes=np.arange(3), y=targets)))
