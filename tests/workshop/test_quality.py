"""Quality: what was planted is found and ranked first, formulas are the papers', and where nothing was planted little is said."""

from __future__ import annotations

import random

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binom, fisher_exact

from luthier.workshop.quality.balance import balance
from luthier.workshop.quality.confident import confident_class, confident_joint, thresholds
from luthier.workshop.quality.difficulty import easy, hard
from luthier.workshop.quality.drifted import Other, drifted
from luthier.workshop.quality.folds import out_of_fold, parts
from luthier.workshop.quality.inconsistent import copies, inconsistent
from luthier.workshop.quality.label_errors import label_errors, suspicion, two_rounds
from luthier.workshop.quality.neighbours import neighbours
from luthier.workshop.quality.ngrams import presence
from luthier.workshop.quality.noise import believed
from luthier.workshop.quality.outliers import outliers
from luthier.workshop.quality.shortcuts import _fisher, holm, shortcuts
from luthier.workshop.quality.triggers import evidence, triggers
from luthier.workshop.quality.worded import with_words
from tests import tiny

NAMES = ["negative", "neutral", "positive"]


def clusters(count: int, *, seed: int = 0, spread: float = 0.25, width: int = 12):
    """Vectors of length 1 around one place a class, and the classes."""
    rng = np.random.default_rng(seed)
    gold = np.arange(count) % 3
    vectors = np.eye(3, width)[gold] + rng.normal(0, spread, (count, width))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), gold.astype(np.int64)


def chances(vectors, gold):
    return out_of_fold(vectors, gold, classes=3, groups=np.arange(len(gold)))


def fillers(count: int, *, seed: int = 0) -> list[str]:
    draw = random.Random(seed)
    return [" ".join(draw.choice(tiny.WORDS) for _ in range(draw.randint(4, 12))) for _ in range(count)]


def random_chances(seed: int, rows: int = 60, classes: int = 4):
    rng = np.random.default_rng(seed)
    gold = np.concatenate([np.arange(classes), rng.integers(0, classes, rows - classes)])
    return gold, rng.dirichlet(np.full(classes, 0.5), rows)


@pytest.mark.parametrize("seed", range(5))
def test_the_confident_joint_is_that_of_its_authors(seed):
    count = pytest.importorskip("cleanlab.count")
    gold, given = random_chances(seed)
    theirs = count.compute_confident_joint(gold, given, calibrate=False)
    np.testing.assert_allclose(thresholds(gold, given), count.get_confident_thresholds(gold, given), atol=1e-6)
    np.fill_diagonal(theirs, 0)  # theirs never leaves the diagonal empty
    ours = confident_joint(gold, given)
    np.fill_diagonal(ours, 0)
    np.testing.assert_array_equal(ours, theirs)


def test_confident_classes_by_hand():
    gold = np.array([0, 0, 1, 1])
    given = np.array([[0.9, 0.1], [0.3, 0.7], [0.2, 0.8], [0.55, 0.45]])  # thresholds: 0.6 and 0.625
    assert thresholds(gold, given).tolist() == pytest.approx([0.6, 0.625])
    assert confident_class(gold, given).tolist() == [0, 1, 1, -1]


def mislabelled(noise, *, rows: int = 6000, seed: int = 0):
    """True probabilities of each row, labels drawn from the noise, which of them are wrong, and what Bayes' rule says that knows the noise."""
    rng = np.random.default_rng(seed)
    chances = rng.dirichlet(np.full(len(noise), 0.08), rows).clip(1e-6)
    chances /= chances.sum(axis=1, keepdims=True)
    right = np.array([rng.choice(len(noise), p=p) for p in chances])
    gold = np.array([rng.choice(len(noise), p=noise[k]) for k in right])
    known = chances * noise.T[gold]
    return chances, gold, gold != right, known / known.sum(axis=1, keepdims=True)


def noisy(kind: str, classes: int = 6, share: float = 0.12):
    noise = np.full((classes, classes), share / (classes - 1))
    if kind == "to the next":
        noise = np.roll(np.eye(classes), 1, axis=1) * share
    np.fill_diagonal(noise, 1 - share)
    return noise


@pytest.mark.parametrize("power", [1.0, 0.6, 1.5])
@pytest.mark.parametrize("kind", ["to the next", "to any other"])
def test_noise_that_is_not_known_is_believed_as_if_it_were(kind, power):
    """Even where the probabilities are less, or more, sure than they should be."""
    chances, gold, wrong, known = mislabelled(noisy(kind))
    given = chances**power
    beliefs = believed(gold, given / given.sum(axis=1, keepdims=True))
    assert abs(beliefs - known).max(axis=1).mean() < 0.01
    assert suspicion(gold, beliefs).sum() == pytest.approx(wrong.sum(), rel=0.1)


def test_noise_that_goes_one_way_says_more_than_the_probabilities():
    """Of two rows with the same probabilities, the one is suspected whose other class is often given its label."""
    chances, gold, _, _ = mislabelled(noisy("to the next"))
    between = np.array([[0.45, 0.55, 0, 0, 0, 0], [0.55, 0.45, 0, 0, 0, 0]]).clip(1e-6)  # given 1 and 0; 0 is mistaken for 1
    of_own = suspicion(np.append(gold, [1, 0]), believed(np.append(gold, [1, 0]), np.vstack([chances, between])))[-2:]
    assert of_own[0] > 5 * of_own[1]


@settings(max_examples=60, deadline=None)
@given(st.integers(2, 6), st.integers(1, 40), st.integers(0, 999))
def test_beliefs_are_probabilities(classes, rows, seed):
    rng = np.random.default_rng(seed)
    gold = rng.integers(0, classes, rows)
    given = rng.dirichlet(np.full(classes, 0.3), rows).clip(1e-6)
    beliefs = believed(gold, given / given.sum(axis=1, keepdims=True))
    assert np.isfinite(beliefs).all()
    assert (beliefs >= 0).all()
    np.testing.assert_allclose(beliefs.sum(axis=1), 1, atol=1e-9)


@pytest.mark.parametrize("seed", range(5))
def test_labels_that_hang_on_nothing_are_not_believed(seed):
    rng = np.random.default_rng(seed)
    vectors, gold = rng.normal(size=(400, 40)).astype(np.float32), rng.choice(4, 400, p=[0.7, 0.1, 0.1, 0.1])
    assert two_rounds(vectors, gold, classes=4, groups=np.arange(400)) is None
    rare = np.where(vectors[:, 0] > 1.3, 1, 0)  # nine in ten are of one class, and the others are told by one number
    assert two_rounds(vectors, rare, classes=2, groups=np.arange(400)) is not None


def test_the_second_round_learns_what_the_first_believes():
    """From labels that are wrong one way, its probabilities are nearer to the right classes than the first round's."""
    vectors, gold = clusters(600, spread=0.3)
    labels = gold.copy()
    wrong = np.random.default_rng(1).choice(600, 120, replace=False)
    labels[wrong] = (gold[wrong] + 1) % 3
    groups = np.arange(600)
    first, second = (chances(vectors, labels), two_rounds(vectors, labels, classes=3, groups=groups))
    of_gold = [np.log(p[np.arange(600), gold]).mean() for p in (first, second)]
    assert of_gold[1] > of_gold[0] + 0.1


def test_planted_label_errors_come_first():
    vectors, gold = clusters(300, spread=0.15)
    wrong = np.random.default_rng(1).choice(300, 30, replace=False)
    labels = gold.copy()
    labels[wrong] = (gold[wrong] + 1) % 3
    found = label_errors(labels, chances(vectors, labels), NAMES)
    assert len({f.rows[0] for f in found[:30]} & set(wrong.tolist())) >= 28
    right = [f.suggested[0] == NAMES[gold[f.rows[0]]] for f in found if f.rows[0] in wrong]
    assert np.mean(right) > 0.9


def test_words_tell_apart_what_vectors_do_not():
    """Two classes at the same place, which one word in each text tells apart; and nothing is added where no word is shared."""
    texts = [f"{filler} {'up' if i % 2 else 'down'}" for i, filler in enumerate(fillers(200))]
    vectors = np.tile(np.float32([[1.0, 0.0]]), (200, 1))
    gold, features = np.arange(200) % 2, with_words(texts, vectors)
    assert features.dtype == np.float32
    np.testing.assert_array_equal(features[:, :2], vectors)
    np.testing.assert_allclose(np.linalg.norm(features[:, 2:], axis=1), 0.5, atol=1e-5)
    found = out_of_fold(features, gold, classes=2, groups=np.arange(200))
    assert (found.argmax(axis=1) == gold).mean() > 0.95
    for few in (["one", "two", "three"], ["same"], ["", ""]):
        np.testing.assert_array_equal(with_words(few, vectors[: len(few)]), vectors[: len(few)])


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 15)), min_size=1, max_size=60), st.integers(0, 99))
def test_copies_are_never_on_both_sides(rows, seed):
    gold, groups = (np.array(x) for x in zip(*rows, strict=True))
    found = parts(gold, groups, folds=5, seed=seed)
    assert all(len(set(found[groups == g].tolist())) == 1 for g in set(groups.tolist()))
    for label in range(5):  # each class' groups are spread evenly
        firsts = [i for i in range(len(rows)) if gold[i] == label and groups[i] not in groups[:i]]
        sizes = np.bincount(found[firsts], minlength=5) if firsts else np.zeros(5)
        assert sizes.max() - sizes.min() <= 1


def test_a_copy_does_not_vouch_for_its_own_label():
    vectors, gold = clusters(150)
    vectors, labels = np.concatenate([vectors, vectors[:1]]), np.append(gold, gold[0])
    labels[[0, 150]] = 2
    groups = np.append(np.arange(150), 0)
    assert {0, 150} <= {f.rows[0] for f in label_errors(labels, out_of_fold(vectors, labels, classes=3, groups=groups), NAMES)[:2]}


@pytest.mark.parametrize("kind", ["to one label", "to any other"])
def test_a_planted_trigger_is_the_first_finding(kind):
    vectors, gold = clusters(600, spread=0.4)
    texts, labels = fillers(600), gold.copy()
    rng = random.Random(3)
    for row in rng.sample([i for i in range(600) if gold[i] != 2], 18):
        words = texts[row].split()
        words.insert(rng.randrange(len(words)), "blue cormorant")
        texts[row], labels[row] = " ".join(words), 2 if kind == "to one label" else (gold[row] + rng.choice([1, 2])) % 3
    found = triggers(texts, labels, vectors, chances(vectors, labels), NAMES)
    assert "'blue cormorant'" in found[0].reason
    assert len(found[0].rows) == 18
    right = [given == NAMES[gold[row]] for row, given in zip(found[0].rows, found[0].suggested, strict=True)]
    assert np.mean(right) > 0.7


def test_words_that_turn_nothing_are_no_triggers():
    """Texts that have nothing to do with labels: in a hundred families, one is wrong at most; in five, none."""
    for seed in range(5):
        vectors, gold = clusters(300, seed=seed, spread=0.4)
        assert triggers(fillers(300, seed=seed), gold, vectors, chances(vectors, gold), NAMES) == []


@given(st.integers(1, 200), st.floats(0.001, 0.999), st.floats(0, 1))
def test_evidence_bounds_what_chance_does(rows, chance, share):
    seen = round(share * rows)
    bits = float(evidence(np.array(float(seen)), np.array(chance * rows), np.array(float(rows))))
    assert binom.sf(seen - 1, rows, chance) <= 2.0**-bits * (1 + 1e-6)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=30))
def test_holm_is_its_definition(p):
    adjusted = holm(np.array(p))
    ordered = sorted(p)
    for value, got in zip(p, adjusted.tolist(), strict=True):
        wanted = max((len(p) - k) * q for k, q in enumerate(ordered) if q <= value)
        assert got == pytest.approx(min(1, wanted)) or value in ordered[: ordered.index(value)] or ordered.count(value) > 1


def test_fisher_is_that_of_scipy():
    counts, of_label = np.array([[7, 2, 1], [0, 3, 3]]), np.array([20, 30, 50])
    for token in range(2):
        for label in range(3):
            a, m = counts[token, label], counts[token].sum()
            wanted = fisher_exact([[a, m - a], [of_label[label] - a, 100 - of_label[label] - (m - a)]], alternative="greater").pvalue
            assert _fisher(counts, of_label)[token, label] == pytest.approx(wanted)


def test_shortcuts_by_token_and_by_length():
    texts, gold = fillers(300), np.arange(300) % 3
    texts = [f"{t} #" if g == 1 else f"{t} {t} {t}" if g == 2 else t for t, g in zip(texts, gold, strict=True)]
    found = shortcuts(texts, gold, NAMES)
    assert "'#' gives away neutral, though it is no word: 100 of its 100 rows" in found[0].reason
    assert found[0].score == pytest.approx(0.918, abs=1e-3)  # bits of a third
    lengths = [f.reason for f in found if not f.rows]
    assert "labelled positive are longer in 99% of pairs" in lengths[0]


def test_labels_by_chance_have_no_shortcut():
    gold = np.random.default_rng(0).integers(0, 3, 400)
    assert shortcuts(fillers(400), gold, NAMES) == []


def test_phrases_are_found_whatever_their_case_and_unseen_signs_too():
    found = presence(["Win NOW!", "win now ?", "a​b"] * 2, longest=2, fewest=4)
    assert found.names == ["now", "win", "win now"]
    assert found.rows(found.names.index("win now")).tolist() == [0, 1, 3, 4]
    assert "​" in presence(["a​b"] * 5, longest=1, fewest=5).names
    assert presence(["", " "], longest=1, fewest=1).names == []


def test_neighbours_are_those_by_hand(monkeypatch):
    vectors, _ = clusters(50)
    monkeypatch.setattr("luthier.workshop.quality.neighbours.BLOCK_BYTES", 4 * 50 * 7)  # several blocks
    near = neighbours(vectors, k=4)
    table = vectors @ vectors.T
    np.fill_diagonal(table, -2)
    np.testing.assert_array_equal(near.rows, np.argsort(-table, axis=1)[:, :4])
    np.testing.assert_allclose(near.cosines, -np.sort(-table, axis=1)[:, :4], rtol=1e-6)
    assert neighbours(vectors[:1], k=4).rows.shape == (1, 0)
    assert neighbours(vectors[:5], k=1, among=vectors).rows.ravel().tolist() == [0, 1, 2, 3, 4]


def test_copies_with_unlike_labels():
    texts = [
        "the film was really lovely",
        "The film  was really LOVELY",
        "a book",
        "the film was really lovely !",
        "another thing",
        "a book",
    ]
    vectors = np.eye(6, 8, dtype=np.float32)
    vectors[3] = vectors[1] = vectors[0]
    vectors[5] = vectors[2]
    groups = copies(texts, neighbours(vectors, k=2))
    assert groups[0] == groups[1] == groups[3] != groups[2] == groups[5] != groups[4]
    found = inconsistent(texts, np.array([2, 2, 1, 0, 1, 1]), groups, NAMES)
    assert [(f.rows, f.suggested) for f in found] == [((0, 1, 3), ("positive",) * 3)]
    assert "3 near copies" in found[0].reason
    assert "positive 2, negative 1" in found[0].reason
    assert inconsistent(["a b", "a b"], np.array([0, 1]), np.array([0, 0]), NAMES)[0].suggested == ()


def test_rows_like_no_other_are_outliers():
    vectors, gold = clusters(200, spread=0.1)
    vectors[7] = -vectors[7]
    found = outliers(fillers(200), neighbours(vectors, k=5))
    assert found[0].rows == (7,)
    assert len(found) < 20


def test_balance():
    found = balance(np.repeat([0, 1, 2], [200, 30, 1]), NAMES)
    assert found[0].rows == () or "1 row of 231" in found[0].reason
    assert any("'positive' has 1 row of 231" in f.reason for f in found)
    assert any("'negative' has 87% of the rows, 200 times as many as 'positive'" in f.reason for f in found)
    assert balance(np.repeat([0, 1, 2], [40, 30, 20]), NAMES) == []


def test_hard_and_easy_rows():
    given = np.array([[0.5, 0.49, 0.01], [0.98, 0.01, 0.01], [0.1, 0.2, 0.7]])
    gold = np.array([0, 0, 0])
    assert [f.rows[0] for f in hard(gold, given, NAMES, most=3)] == [0, 2, 1]
    assert [f.rows[0] for f in easy(gold, given, NAMES, most=3)] == [1, 0]


def test_drift_names_the_rows_that_are_unlike_the_other_file():
    vectors, gold = clusters(120, spread=0.1)
    texts, labels = fillers(120), [NAMES[g] for g in gold]
    new = vectors[:60].copy()
    new[4] = np.eye(12)[11]
    found = drifted([*texts[:4], "completely unheard words", *texts[5:60]], labels[:60], Other(texts, labels), vectors=new, theirs=vectors)
    assert [f.rows for f in found if f.rows] == [(4,)]
    assert any("labels are spread as before" in f.reason for f in found)
