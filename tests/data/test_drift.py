"""Drift: what was planted is found, and where nothing was planted nothing is said to be there."""

from __future__ import annotations

import random

import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from sklearn.metrics import roc_auc_score

from luthier.data.drift import Side, _auc, _divergence, drift, sentences
from tests import tiny


def side(count: int, *, seed: int, labels: tuple[str, ...] = ("negative", "neutral", "positive"), extra: str = "") -> Side:
    rows = [r for r in tiny.moods_rows(3 * count, seed=seed) if r[1] in labels][:count]
    return Side([f"{t} {extra}".strip() for t, _ in rows], [[label] for _, label in rows])


def test_no_drift_is_none():
    """Rows of one source: the interval holds 0.5, labels are within chance, no word is missed. Over seeds, 5% may say otherwise."""
    apart = labels = 0
    for seed in range(8):
        found = drift(side(150, seed=seed), side(150, seed=100 + seed), seed=seed)
        apart += not found["apart"]["low"] <= 0.5 <= found["apart"]["high"]
        labels += found["labels"]["divergence"] > found["labels"]["by_chance"]
        assert found["labels"]["new"] == found["labels"]["missing"] == []
        assert found["words"]["unseen"] < 0.02
        assert found["length"]["p"] > 0.001
    assert apart <= 2
    assert labels <= 2


def test_planted_drift_is_found_where_it_was_planted():
    old = side(150, seed=0)
    new = side(100, seed=1, labels=("neutral",), extra="completely unheard words stand here today")
    found = drift(old, new)
    assert found["apart"]["low"] > 0.95
    assert found["labels"]["missing"] == ["negative", "positive"]
    assert found["labels"]["divergence"] > 3 * found["labels"]["by_chance"]
    assert found["words"]["unseen"] > 0.2
    assert {"completely", "unheard", "words", "here"} >= set(found["words"]["commonest"][:3])
    assert found["length"]["new"] == found["length"]["old"] + 6
    said = sentences(found)
    assert said[0].startswith("new texts are easy to tell from old ones: AUC 1.00")
    assert any("longer" in s for s in said)


def test_new_labels_are_told_from_new_ways_of_writing():
    """Rows of a new class look new; rows of the old classes do not, unless they are written otherwise."""
    old = side(200, seed=0, labels=("negative", "positive"))
    both = drift(old, side(200, seed=1))
    assert both["labels"]["new"] == ["neutral"]
    assert both["apart"]["low"] > 0.6
    assert both["apart_by_label"]["low"] < 0.56
    written = drift(old, side(200, seed=1, extra="again again"))
    assert written["apart_by_label"]["low"] > 0.9


def test_a_shift_of_shares_alone_is_seen_in_the_labels():
    rows = side(600, seed=0)
    kept = [i for i, labels in enumerate(rows.labels) if labels != ["neutral"] or i % 5 == 0]
    new = Side([rows.texts[i] for i in kept], [rows.labels[i] for i in kept])
    found = drift(side(300, seed=3), new)
    assert found["labels"]["new"] == []
    assert found["labels"]["divergence"] > 2 * found["labels"]["by_chance"]
    assert "apart_by_label" not in found


def test_the_same_rows_twice_are_not_told_apart():
    """A text stands on one side of a fold: a classifier that learned it by heart would say that the sides differ."""
    rows = side(120, seed=0)
    found = drift(rows, rows)
    assert abs(found["apart"]["auc"] - 0.5) < 0.02
    assert found["words"]["unseen"] == 0


def test_figures_are_those_of_others():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 20, size=(2, 7)) + np.array([[0], [1]])
    ours = float(_divergence(counts[:1], counts[1:])[0])
    assert ours == pytest.approx(jensenshannon(*(c / c.sum() for c in counts), base=2) ** 2, abs=1e-12)
    a, b = rng.integers(0, 9, 40).astype(float), rng.integers(2, 11, 30).astype(float)
    assert _auc(a, b) == pytest.approx(roc_auc_score([0] * 40 + [1] * 30, [*a, *b]), abs=1e-12)


def test_it_repeats_and_needs_no_labels():
    old, new = side(60, seed=0), side(60, seed=1)
    assert drift(old, new, seed=4) == drift(old, new, seed=4)
    bare = drift(Side(old.texts), Side(new.texts))
    assert "labels" not in bare
    assert all("label" not in s for s in sentences(bare))


def test_few_rows_and_odd_texts_do_not_break_it():
    found = drift(Side(["one text"]), Side(["another"]))
    assert "apart" not in found
    assert "apart" not in drift(Side(["one text"] * 30), Side(["another"] * 30)), "one text each is no sample"
    marks = [["." * n for n in range(1, 31)], ["!" * n for n in range(1, 31)]]
    assert drift(Side(marks[0]), Side(marks[1]))["apart"] == {"auc": 0.5, "low": 0.5, "high": 0.5}
    assert "labels" not in drift(Side(["a"] * 30, [[]] * 30), Side(["a"] * 30, [[]] * 30)), "rows of numbers have none"
    with pytest.raises(ValueError, match="needs a text"):
        drift(Side([]), Side(["a"]))
    draw = random.Random(0)
    many = [" ".join(draw.choices(tiny.WORDS, k=5)) for _ in range(2100)]
    assert drift(Side(many), Side(many[:50]))["rows"] == {"old": 2100, "new": 50}
