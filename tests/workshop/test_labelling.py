"""Several people label: what is asked of whom, what counts, how far they agree, what trains."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest

from luthier.errors import DataError
from luthier.feedback import Store, fleiss, people
from luthier.recipe import load_recipe
from luthier.workflow.dataset import dataset
from luthier.workshop.labelling.adjudication import Adjudication
from luthier.workshop.labelling.agreement import agreements, annotators
from luthier.workshop.labelling.opinions import opinions, poll
from luthier.workshop.labelling.question import Question, Span, sheet
from luthier.workshop.labelling.rows import labelled_rows, write_rows
from luthier.workshop.labelling.session import Labelling

CLASSES = Question("classes", ("good", "bad"))


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "feedback.db") as opened:
        yield opened


@pytest.fixture
def rows(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"row {i}"}) + "\n" for i in range(8)))
    return sheet(path, form="classes").asked


def say(store, text, answers, question=CLASSES, **more):
    for name, value in answers.items():
        store.append("label", {"text": text}, annotator=name, payload={**question.payload(value), **more})


def drain(session, value=("good",), most=99):
    shown = []
    while len(shown) < most and (row := session.next()) is not None:
        session.answer(row, value)
        shown.append(row.content["text"])
    return shown


# ── what is asked ──────────────────────────────────────────────────────────────────────────────


def test_rows_are_asked_once_and_counted(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("text,other\nfine,1\nfine,2\n,3\nbroken\nnew,4\n")
    found = sheet(path, form="classes")
    assert [r.content for r in found.asked] == [{"text": "fine"}, {"text": "new"}]
    assert found.rows == len(found.asked) + found.repeated + len(found.quarantined) == 5
    assert sheet(path, form="classes", pair="other").asked[0].content == {"text": "fine", "text_pair": "1"}
    with pytest.raises(DataError, match="did you mean 'other'"):
        sheet(path, form="classes", column="othr")


def test_a_session_goes_on_where_the_last_one_ended_and_back_corrects(store, rows):
    first = Labelling(store, rows, CLASSES, annotator="ada")
    one = first.next()
    first.answer(one, ["good"], seconds=2.0)
    two = first.next()
    first.skip(two)
    assert first.next() is not None
    assert first.back() == two
    assert first.said(two) is None
    assert first.back() == one
    assert first.back() is None
    assert first.said(one) == ("good",)
    first.answer(one, ["bad"])
    assert len(store.entries(history=True)) == 3
    again = Labelling(store, rows, CLASSES, annotator="ada")
    assert again.earlier == 2
    assert drain(again) == [f"row {i}" for i in range(2, 8)]
    assert again.counts() == {"good": 6, "bad": 1}
    assert drain(Labelling(store, rows, Question("classes", ("x", "y"), named="other"), annotator="ada"), ("x",), 1) == ["row 0"]
    assert people(store.entries(history=True))[0].skips == 1


def test_others_rows_come_in_between(store, rows):
    drain(Labelling(store, rows, CLASSES, annotator="ada"), most=4)
    none = Labelling(store, rows, CLASSES, annotator="bob", overlap=0, batch=4)
    half = Labelling(store, rows, CLASSES, annotator="cyd", overlap=0.5, batch=4)
    every = Labelling(store, rows, CLASSES, annotator="eve", overlap=1, batch=4)
    hers = {f"row {i}" for i in range(4)}
    assert not set(drain(none, most=4)) & hers
    store_only = {o.content["text"] for o in opinions(store, CLASSES)}
    assert len(store_only) == 8
    assert set(drain(every, most=8)) == {f"row {i}" for i in range(8)}
    assert half.next() is not None


def test_vectors_are_computed_once_and_the_pick_follows_them(store, rows):
    calls = []

    def vectors():
        calls.append(1)
        angles = np.radians([0, 3, 6, 90, 87, 84, 45, 44])
        return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)

    for i, name in ((0, "good"), (3, "bad")):
        say(store, f"row {i}", {"bob": [name]})
    session = Labelling(store, rows, CLASSES, annotator="ada", strategy="margin", vectors=vectors, batch=1)
    assert drain(session, most=1)[0] in ("row 6", "row 7")
    assert len(drain(session)) == 7
    assert len(calls) == 1


# ── what counts ────────────────────────────────────────────────────────────────────────────────


def test_majority_tie_and_decision(store):
    say(store, "agreed", {"ada": ["good"], "bob": ["good"]})
    say(store, "most", {"ada": ["good"], "bob": ["bad"], "cyd": ["good"]})
    say(store, "tie", {"ada": ["good"], "bob": ["bad"]})
    store.append("label", {"text": "passed"}, annotator="ada", payload=CLASSES.skipped())
    found = labelled_rows(opinions(store, CLASSES), CLASSES)
    assert found.rows == [{"text": "agreed", "label": "good"}, {"text": "most", "label": "good"}]
    assert found.items == 4 == len(found.rows) + sum(found.left_out.values())
    assert any("a tie" in why for why in found.left_out)
    judge = Adjudication(store, poll(store), annotator="ada")
    assert [r.content["text"] for r in judge.rows] == ["most", "tie"]
    judge.next()
    tie = judge.next()
    assert judge.others(tie) == {"ada": ("good",), "bob": ("bad",)}
    judge.answer(tie, ["bad"])
    after = {o.content["text"]: o for o in opinions(store, CLASSES)}
    assert after["tie"].verdict.how == "adjudicated"
    assert after["tie"].said == {"ada": ("good",), "bob": ("bad",)}, "opinions stay"
    assert Adjudication(store, poll(store), annotator="ada").earlier == 1
    assert labelled_rows(opinions(store, CLASSES), CLASSES).rows[-1] == {"text": "tie", "label": "bad"}
    assert labelled_rows(opinions(store, CLASSES), CLASSES, annotator="ada").rows[-1]["label"] == "good"


def test_several_classes_and_spans_are_voted_on_one_by_one(store):
    several = Question("classes", ("a", "b", "c"), several=True)
    say(store, "x", {"ada": ["a", "b"], "bob": ["a"], "cyd": ["a", "c"]}, several)
    assert opinions(store, several)[0].verdict.value == ("a",)
    say(store, "y", {"ada": ["a", "b"], "bob": ["a"]}, several)
    assert opinions(store, several)[1].verdict.how == "tie"
    spans = Question("spans", ("person",))
    one, two = Span(0, 3, "person"), Span(5, 8, "person")
    say(store, "Ada, Bob", {"ada": [one, two], "bob": [one], "cyd": [one, two], "eve": []}, spans)
    assert opinions(store, spans)[0].verdict.how == "tie"
    say(store, "Ada, Bob", {"eve": [two]}, spans)
    assert opinions(store, spans)[0].verdict.value == (one, two)


@pytest.mark.parametrize(
    ("question", "value", "message"),
    [
        (CLASSES, ["bda"], "did you mean bad"),
        (CLASSES, ["good", "bad"], "one label is wanted"),
        (Question("spans", ("p",)), [Span(0, 3, "p"), Span(2, 4, "p")], "overlap"),
    ],
)
def test_an_answer_to_another_question_is_refused(question, value, message):
    with pytest.raises(DataError, match=message):
        question.payload(value)


def test_two_questions_about_one_text_stand_side_by_side(store):
    topic = Question("classes", ("sport", "art"), named="topic")
    say(store, "x", {"ada": ["good"]})
    say(store, "x", {"ada": ["sport"]}, topic)
    say(store, "x", {"ada": [Span(0, 1, "p")]}, Question("spans", ("p",)))
    assert len(store.entries()) == 3
    assert poll(store, named="topic").question.labels == ("sport",)
    with pytest.raises(DataError, match="several questions"):
        poll(store)


# ── agreement ──────────────────────────────────────────────────────────────────────────────────


def test_fleiss_kappa_of_a_published_table():
    """Ten subjects, fourteen raters, five categories: 0.210 (the table after Fleiss that Wikipedia works out)."""
    counts = [
        [0, 0, 0, 0, 14], [0, 2, 6, 4, 2], [0, 0, 3, 5, 6], [0, 3, 9, 2, 0], [2, 2, 8, 1, 1],
        [7, 7, 0, 0, 0], [3, 2, 6, 3, 0], [2, 5, 3, 2, 2], [6, 5, 2, 1, 0], [0, 2, 2, 3, 7],
    ]  # fmt: skip
    table = np.array([np.repeat(np.arange(5), line) for line in counts], dtype=float)
    assert round(fleiss(table), 3) == 0.210


def test_agreement_and_annotators(store):
    for i in range(12):
        own = ["good"] if i % 2 else ["bad"]
        say(store, f"row {i}", {"ada": own, "bob": own, "cyd": ["good"]}, seconds=3.0)
    found = agreements(opinions(store, CLASSES), "classes")
    named = {(a.coefficient, a.annotators): a for a in found}
    assert named["Cohen's kappa", ("ada", "bob")].value["value"] == 1
    assert named["Cohen's kappa", ("ada", "cyd")].value["value"] == 0
    assert {a.coefficient for a in found[:2]} == {"Fleiss' kappa", "Krippendorff's alpha"}
    whole = named["Krippendorff's alpha", ("ada", "bob", "cyd")].value
    assert whole["low"] < whole["value"] < whole["high"]
    ada, _, cyd = annotators(opinions(store, CLASSES))
    assert (ada.seconds, ada.an_hour, ada.shared, cyd.with_others) == (3.0, 1200, 12, 0.5)
    assert ada.labels == {"bad": 0.5, "good": 0.5}


def test_spans_agree_word_by_word_and_as_wholes(store):
    spans = Question("spans", ("person", "place"))
    a, b = Span(0, 3, "person"), Span(8, 13, "place")
    say(store, "Ada saw Paris", {"ada": [a, b], "bob": [a]}, spans)
    say(store, "Eve saw Paris", {"ada": [a, b], "bob": [a, b]}, spans)
    found = {f.coefficient: f for f in agreements(opinions(store, spans), "spans")}
    assert found["F1 of whole spans"].value["value"] == pytest.approx(2 * 3 / 7)
    assert found["Krippendorff's alpha"].same == pytest.approx(5 / 6)


# ── what trains ────────────────────────────────────────────────────────────────────────────────


def test_the_task_of_classification_reads_the_rows(store, tmp_path):
    for i in range(20):
        say(store, f"row {i}, said", {"ada": ["good" if i % 2 else "bad"]})
    made = labelled_rows(opinions(store, CLASSES), CLASSES)
    for name in ("rows.csv", "rows.jsonl"):
        write_rows(tmp_path / name, made.rows, CLASSES)
        data = dataset(load_recipe({"data": {"train": str(tmp_path / name)}, "task": "classification", "model": "starter"}))
        assert list(data.task.labels) == ["bad", "good"]
        assert sum(len(p) for p in data.prepared.parts.values()) == 20
    with (tmp_path / "rows.csv").open(newline="") as file:
        assert next(csv.DictReader(file)) == {"text": "row 0, said", "label": "bad"}


def test_the_task_of_tagging_reads_the_rows(store, tmp_path):
    spans = Question("spans", ("person",))
    for i in range(12):
        say(store, f"Ada saw it {i}", {"ada": [Span(0, 3, "person")] if i % 2 else []}, spans)
    with pytest.raises(DataError, match="no lists"):
        write_rows(tmp_path / "rows.csv", [], spans)
    write_rows(tmp_path / "rows.jsonl", labelled_rows(opinions(store, spans), spans).rows, spans)
    data = dataset(load_recipe({"data": {"train": str(tmp_path / "rows.jsonl")}, "task": "tagging", "model": "starter"}))
    records = [r for part in data.prepared.parts.values() for r in part]
    assert len(records) == 12
    assert data.task.kind == "entities"
    assert sum(data.task.label_counts(records).values()) == 6
