"""Rows to parts: the split's promises, the books, and the reasons for every row left out."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.split import content_key, split
from luthier.errors import DataError
from luthier.recipe import load_recipe
from luthier.workflow.dataset import dataset


@given(
    st.lists(st.tuples(st.integers(0, 60), st.sampled_from("abc")), min_size=30, max_size=300),
    st.sampled_from([0.0, 0.1, 0.3]), st.sampled_from([0.1, 0.2, 0.4]), st.integers(0, 5),
)  # fmt: skip
def test_equal_keys_stay_together_and_shares_are_met(rows, validation, test, seed):
    keys, strata = [f"k{n}" for n, _ in rows], [s for _, s in rows]
    parts = split(keys, strata, validation=validation, test=test, seed=seed)
    assert len(parts) == len(rows)
    sides = {}
    for key, part in zip(keys, parts, strict=True):
        assert sides.setdefault(key, part) == part
    largest = max(Counter(keys).values())
    counts = Counter(parts)
    for part, share in (("validation", validation), ("test", test)):
        assert abs(counts[part] - share * len(rows)) <= 3 * largest + 3
    if validation == 0.0:
        assert counts["validation"] == 0


def test_the_split_does_not_depend_on_the_order_of_rows():
    keys = [f"k{i}" for i in range(100)]
    strata = ["ab"[i % 2] for i in range(100)]
    first = dict(zip(keys, split(keys, strata, validation=0.1, test=0.2, seed=1), strict=True))
    again = split(keys[::-1], strata[::-1], validation=0.1, test=0.2, seed=1)
    assert first == dict(zip(keys[::-1], again, strict=True))


def test_strata_are_shared_out_in_proportion():
    keys = [f"k{i}" for i in range(1000)]
    strata = ["rare" if i < 50 else "common" for i in range(1000)]
    parts = split(keys, strata, validation=0.1, test=0.2, seed=0)
    counts = Counter(zip(strata, parts, strict=True))
    assert counts["rare", "test"] == 10
    assert counts["rare", "validation"] == 5
    assert counts["common", "test"] == 190


def test_texts_that_differ_in_case_and_space_share_a_key():
    assert content_key(" Great\u00a0film ") == content_key("great   FILM")
    assert content_key("a", "b") != content_key("ab", None)


def plan(path, **data):
    return dataset(load_recipe({"data": {"train": str(path), **data}}))


def test_books_balance_and_every_reason_is_kept(write_csv):
    rows = [[f"text {i}", "ab"[i % 2]] for i in range(60)] + [["", "a"], ["   ", "b"], ["no label", ""], ["text 1", "b"], ["text 2", "b"]]
    found = plan(write_csv("a.csv", ["text", "label"], rows), max_bad_share=0.2, limit=20)
    summary = found.prepared.summary
    used = sum(len(p) for p in found.prepared.parts.values())
    assert summary["rows_read"] == 65 == used + summary["rows_quarantined"] + summary["rows_beyond_limit"]
    assert summary["quarantine_reasons"] == {"empty text": 2, "no label": 1}
    assert summary["duplicates"] == 2
    assert summary["conflicting_duplicates"] == 2
    assert {q.line for q in found.prepared.quarantined} == {62, 63, 64}


def test_repeats_are_dropped_when_asked_and_conflicts_are_not(write_csv):
    rows = [[f"text {i}", "ab"[i % 2]] for i in range(40)] + [["text 1", "b"], ["text 1", "b"], ["text 2", "b"]]
    summary = plan(write_csv("a.csv", ["text", "label"], rows), duplicates="drop").prepared.summary
    assert summary["rows_dropped_as_duplicates"] == 2
    assert summary["train"] + summary["validation"] + summary["test"] == 41


@pytest.mark.parametrize(
    ("header", "rows", "options", "message"),
    [
        (["txt", "label"], [["a", "x"]] * 9, {}, "no column 'text'.*\n.*did you mean 'txt'"),
        (["text", "label"], [[f"t{i}", "x"] for i in range(30)], {}, "training has only the label 'x'"),
        (["text", "label"], [[f"t{i}", "xy"[i % 2]] for i in range(20)] + [[" ", "x"]] * 5, {}, "5 of 25 rows cannot be used"),
        (["text", "label"], [[f"t{i}", f"l{i}"] for i in range(1500)], {}, "1500 different labels"),
    ],
)
def test_faults_are_said_with_their_remedy(write_csv, header, rows, options, message):
    with pytest.raises(DataError, match=message) as caught:
        plan(write_csv("a.csv", header, rows), **options)
    assert "→" in str(caught.value)


def test_an_unknown_label_in_the_test_file_is_refused_with_its_line(write_csv):
    train = write_csv("train.csv", ["text", "label"], [[f"t{i}", ("good", "bad")[i % 2]] for i in range(30)])
    test = write_csv("test.csv", ["text", "label"], [["a", "good"], ["b", "goood"]])
    with pytest.raises(DataError, match="'goood' of the test part") as caught:
        plan(train, test=str(test))
    assert "test.csv:3" in str(caught.value)
    assert "did you mean 'good'" in str(caught.value)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("{text} it is {label}", "'label' is the label itself"),
        ("{text} it is {copy}", "'copy' holds the label"),
        ("{text} it is {code}", "each value of 'code' goes with one label"),
        ("{text} it is {shop}", None),
    ],
)
def test_a_prompt_that_gives_the_label_away_is_refused(write_csv, prompt, message):
    rows = [[f"t{i}", "xy"[i % 2], "XY"[i % 2], "12"[i % 2], "pqr"[i % 3]] for i in range(60)]
    path = write_csv("a.csv", ["text", "label", "copy", "code", "shop"], rows)
    recipe = load_recipe({"data": {"train": str(path)}, "task": {"prompt": prompt}})
    if message is None:
        assert dataset(recipe).prepared.parts["train"][0].text.startswith("t")
        return
    with pytest.raises(DataError, match=message):
        dataset(recipe)


def test_numbers_in_a_label_column_take_the_names_of_the_recipe(write_csv):
    path = write_csv("a.csv", ["text", "label"], [[f"t{i}", i % 3] for i in range(60)])
    named = dataset(load_recipe({"data": {"train": str(path)}, "task": {"labels": ["down", "up", "flat"]}}))
    assert named.task.label_counts(named.prepared.parts["train"]).keys() == {"down", "up", "flat"}
    plain = dataset(load_recipe({"data": {"train": str(path)}}))
    assert plain.task.labels == ("0", "1", "2")


def test_kinds_are_inferred(write_csv):
    path = write_csv(
        "a.csv", ["text", "number", "many", "one", "two"], [[f"t{i}", i / 7, "a,b" if i % 2 else "c", i % 2, 1 - i % 2] for i in range(60)]
    )

    def kind(**data):
        return plan(path, **data).task.kind

    assert kind(label="number") == "regression"
    assert kind(label="many", label_separator=",") == "multi_label"
    assert kind(label="many") == "single_label"
    assert kind(label=["one", "two"]) == "multi_label"
