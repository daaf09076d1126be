"""What people said becomes rows that the preference task reads, and every judgement is accounted for."""

from __future__ import annotations

import math
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from luthier.data.rows import Row
from luthier.errors import DataError
from luthier.feedback import FORMS, Said, Store, alpha, judged, kappa, people, training_rows
from luthier.tasks.comparisons import comparison, recognise
from luthier.tasks.conversation import conversation
from luthier.workflow.opinions import agreements, contests


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "feedback.db") as opened:
        yield opened


def choice(prompt, picked, who="ada", answers=("a", "b"), **more):
    return Said("choice", judged(prompt, *answers), who, {"picked": picked, **more})


def rating(prompt, answer, value, who="ada"):
    return Said("rating", judged(prompt, answer), who, {"rating": value})


def as_read(rows, form):
    found = recognise([Row(r, "f", i) for i, r in enumerate(rows)], {})
    assert found == form
    return [comparison(r, found, names={}, system=None, threshold=None) for r in rows]


def test_majorities_make_pairs_and_the_rest_is_told(store):
    store.extend([choice("won", 0), choice("won", 0, "bob"), choice("won", 1, "cy"), choice("split", 0), choice("split", 1, "bob")])
    store.extend([choice("tie", "tie"), choice("skip", "skip"), Said("edit", judged("edit", "a", "b"), "ada", {"text": "c", "of": 1})])
    found = training_rows(store, "pairs")
    assert found.rows == [{"prompt": "won", "chosen": "a", "rejected": "b"}, {"prompt": "edit", "chosen": "c", "rejected": "b"}]
    assert found.left_out == {"outvoted": 1, "a conflict: no majority": 2, "a tie": 1, "skipped": 1}
    assert (found.used, found.judgements) == (3, 8)
    assert training_rows(store, "pairs", annotator="cy").rows == [{"prompt": "won", "chosen": "b", "rejected": "a"}]
    read = as_read(found.rows, "pairs")
    assert [[m["content"] for a in r.answers for m in a] for r in read] == [["a", "b"], ["c", "b"]]


def test_ratings_make_ranked_and_unpaired_rows(store):
    store.extend(
        [rating("q", "good", 5), rating("q", "good", 4, "bob"), rating("q", "bad", 1), rating("thumb", "yes", True), choice("c", 1)]
    )
    ranked = training_rows(store, "ranked").rows
    assert {"prompt": "q", "completions": ["good", "bad"], "ratings": [4.5, 1.0]} in ranked
    assert all(not isinstance(r, str) for r in as_read(ranked, "ranked"))
    plain = training_rows(store, "unpaired")
    assert plain.left_out == {"a number, and no threshold from which on it is good": 3}
    rows = training_rows(store, "unpaired", threshold=3).rows
    assert {(r["completion"], r["label"]) for r in rows} == {("good", True), ("bad", False), ("yes", True), ("b", True), ("a", False)}
    assert [r.ratings for r in as_read(rows, "unpaired")] == [(float(r["label"]),) for r in rows]
    talks = training_rows(store, "conversations", threshold=3)
    assert {r["messages"][-1]["content"] for r in talks.rows} == {"good", "yes", "b"}
    assert talks.left_out == {"a bad answer": 1}
    assert all(not isinstance(conversation(r, "messages", names={}, system=None), str) for r in talks.rows)


def test_a_threshold_that_says_nothing_is_refused(store):
    store.extend([rating("q", "good", 5), choice("c", 1)])
    for form, threshold, message in (
        ("pairs", 4, "not read by the form pairs"),
        ("ranked", 4, "not read"),
        ("unpaired", math.nan, "no rating"),
    ):
        with pytest.raises(DataError, match=message):
            training_rows(store, form, threshold=threshold)


def test_what_contradicts_itself_is_left_out(store):
    store.extend(
        [
            choice("q", 0),
            Said("edit", judged("q", "a", "x"), "ada", {"text": "b", "of": 0}),
            rating("t", "x", True),
            choice("t", 0, answers=("w", "x")),
        ]
    )
    assert training_rows(store, "pairs").left_out["a conflict: the pair goes both ways"] == 2
    assert "x" not in {r["completion"] for r in training_rows(store, "unpaired").rows if r["prompt"] == "t"}


people_said = st.lists(
    st.tuples(st.sampled_from(["p", "q"]), st.sampled_from(["ada", "bob", "cy"]), st.sampled_from(["choice", "edit", "rating"]), st.integers(0, 5)),
    max_size=14,
)  # fmt: skip


@given(said=people_said)
@settings(max_examples=40, deadline=None)
def test_every_judgement_is_used_or_left_out_for_one_reason(said):
    payloads = {
        "choice": [{"picked": p} for p in (0, 1, "tie", "skip", 0, 1)],
        "edit": [{"text": t, "of": o} for t in ("a", "b", "c") for o in (0, 1)],
        "rating": [{"rating": r} for r in (True, False, 1, 2.5, 5, True)],
    }
    with tempfile.TemporaryDirectory() as folder, Store(Path(folder) / "s.db") as store:
        store.extend(
            Said(kind, judged(p, "a") if kind == "rating" else judged(p, "a", "b"), who, payloads[kind][n]) for p, who, kind, n in said
        )
        for form in FORMS:
            for threshold in (None,) if form in ("pairs", "ranked") else (None, 2.0):
                found = training_rows(store, form, threshold=threshold)
                assert found.judgements == len(store.entries()) == found.used + sum(found.left_out.values())
                assert all(set(r) == {c.strip() for c in FORMS[form].split(",")} for r in found.rows)


def test_alpha_is_krippendorffs_and_kappa_scikit_learns():
    n = math.nan
    rows = [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, n, n, n],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, n, 3],
        [n, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, n],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, n],
    ]  # the table of section C of his paper, which gives these two
    assert alpha(np.array(rows).T) == pytest.approx(0.743, abs=5e-4)
    assert alpha(np.array(rows).T, level="interval") == pytest.approx(0.849, abs=5e-4)
    draw = np.random.default_rng(0).integers(0, 3, (2, 40))
    assert kappa(*draw) == pytest.approx(cohen_kappa_score(*draw), abs=1e-12)
    assert math.isnan(kappa([1, 1], [1, 1]))
    assert math.isnan(alpha(np.ones((3, 2))))


def test_agreement_and_analytics_are_of_what_holds_now(store):
    for i in range(12):
        store.extend(
            [choice(f"q{i}", i % 2, seconds=2.0, order=[i % 2, 1 - i % 2]), choice(f"q{i}", (i % 2) ^ (i > 9), "bob", order=[0, 1])]
        )
    store.extend([choice("alone", "skip"), choice("q0", "tie", "bob")])
    (found,) = agreements(store)
    assert (found.coefficient, found.annotators, found.items) == ("Cohen's kappa", ("ada", "bob"), 12)
    assert found.same == pytest.approx(9 / 12)
    assert found.value["low"] <= found.value["value"] <= found.value["high"] < 1.01
    ada, bob = people(store.entries(history=True))
    assert (ada.choices, ada.skips, ada.first, ada.decided, ada.seconds) == (12, 1, 12, 12, 2.0)
    assert (bob.choices, bob.ties, bob.corrected) == (11, 1, 1)
    store.extend([choice("q1", 1, "cy")])
    assert next(a.coefficient for a in agreements(store)) == "Krippendorff's alpha"


def test_models_are_compared_whichever_place_their_answer_has(store):
    for i, models in enumerate((["new", "old"], ["old", "new"], ["new", "old"])):
        made = store.keep(f"r{i}", judged(f"q{i}", "a", "b"), source={"models": models})
        store.append("choice", made.content, annotator="ada", payload={"picked": models.index("new") if i < 2 else "tie"})
    (found,) = contests(store)
    assert (found.first, found.second, found.wins, found.losses, found.ties) == ("new", "old", 2, 0, 1)
    assert found.rate["value"] == pytest.approx(2.5 / 3)
