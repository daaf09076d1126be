"""Exact match and F1 by the rules of the published script, and the places where answers stand."""

from __future__ import annotations

import json
import re
import string
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.tasks.squad import answers_of, grade, place


def published(given_answer: str, right: list[str]) -> tuple[float, float]:
    """The rules of SQuAD 2.0's own evaluation, step by step."""

    def bare(text: str) -> str:
        text = "".join(c for c in text.lower() if c not in set(string.punctuation))
        return " ".join(re.compile(r"\b(a|an|the)\b", re.UNICODE).sub(" ", text).split())

    def f1(gold: str) -> float:
        a, b = bare(gold).split(), bare(given_answer).split()
        if not a or not b:
            return float(a == b)
        same = sum((Counter(a) & Counter(b)).values())
        if not same:
            return 0.0
        precision, recall = same / len(b), same / len(a)
        return 2 * precision * recall / (precision + recall)

    kept = [g for g in right if bare(g)] or [""]
    return float(max(bare(g) == bare(given_answer) for g in kept)), max(map(f1, kept))


@pytest.mark.parametrize(
    ("said", "right", "exact", "f1"),
    [
        ("the Panthers", ["Panthers"], 1, 1),
        ("An apple, a pear", ["apple pear"], 1, 1),
        ("THE 24-10!", ["2410"], 1, 1),
        ("theatre", ["the atre"], 0, 0),
        ("1,000", ["1000", "one thousand"], 1, 1),
        ("new york city", ["New York", "York City Hall"], 0, 0.8),
        ("", [], 1, 1),
        ("something", [], 0, 0),
        ("", ["something"], 0, 0),
        ("The", ["a"], 1, 1),
        ("to be or not to be", ["to be"], 0, 0.5),
        ("naïve  café", ["Naïve café."], 1, 1),
        ("don't", ["dont"], 1, 1),
        ("“quoted”", ["quoted"], 0, 0),
    ],
)
def test_tricky_answers_are_graded_as_published(said, right, exact, f1):
    assert grade(said, right) == pytest.approx((exact, f1))
    assert grade(said, right) == pytest.approx(published(said, right))


WORDS = st.lists(st.sampled_from(["the", "The", "a", "an", "cat,", "Cat", "sat.", "-", "on", "mat", "%", "Ünder"]), max_size=6).map(
    " ".join
)


@given(WORDS, st.lists(WORDS, max_size=4))
@settings(deadline=None)
def test_any_answer_is_graded_as_published(said, right):
    assert grade(said, right) == pytest.approx(published(said, right))


@given(st.text("ab ", max_size=30), st.text("ab", min_size=1, max_size=4), st.integers(-5, 40))
@settings(deadline=None)
def test_a_place_always_holds_the_answer(passage, text, start):
    found = place(text, start, passage)
    if isinstance(found, int):
        assert passage[found : found + len(text)] == text
        assert found == start or text not in passage[max(start, 0) : max(start, 0) + len(text)] or start < 0
    else:
        assert text not in passage or passage.count(text) >= 1


def read(answer, start=None, passage="so they say the 😀 film was lovely", **more):
    return answers_of({"answer": answer, "at": start, **more}, passage, label="answer", start="at", group="title")


@pytest.mark.parametrize(
    "cell",
    [
        "lovely",
        ["lovely", "film was lovely"],
        {"text": ["lovely", "was lovely"], "answer_start": [27, 23]},
        {"text": "lovely", "answer_start": 27},
        [{"text": "lovely", "answer_start": 27}],
        json.dumps({"text": ["lovely"], "answer_start": [27]}),
        json.dumps([{"text": "lovely", "answer_start": 27}]),
        " lovely ",
    ],
)
def test_every_form_of_an_answer_is_read(cell):
    found = read(cell)
    assert (found.texts[0], found.start, found.end, found.moved) == ("lovely", 27, 33, False)


def test_starts_come_as_numbers_texts_and_pairs():
    for start in (27, "27", 27.0, [27, 33]):
        assert read(["lovely"] if isinstance(start, list) else "lovely", [start] if isinstance(start, list) else start).start == 27


def test_an_answer_is_found_nearby_and_said_to_be_moved():
    assert read("lovely", 25)[1:4] == (27, 33, True)
    twice = "warm " + "x" * 60 + " warm"
    assert read("warm", 3, twice).start == 0
    assert read("warm", 70, twice).start == 66
    assert read("warm", 20, "warm and warm") == "the answer stands in several places, none of them its answer_start"
    assert read("warm", None, "warm and warm") == "the answer stands in several places"


@pytest.mark.parametrize(
    ("cell", "start", "reason"),
    [
        ("horrible", 3, "does not stand in the passage"),
        ("   ", 3, "blank"),
        (7, 3, "not a string"),
        ("lovely", "soon", "not a number"),
        ({"answer_start": [3]}, None, "without a text"),
        (["lovely", "film"], [1, 2, 3], "2 answers with 3 starts"),
    ],
)
def test_what_cannot_be_an_answer_is_refused(cell, start, reason):
    assert reason in read(cell, start)


def test_no_answer_has_several_spellings():
    for cell in (None, "", [], {"text": [], "answer_start": []}, "[]", '{"text": [], "answer_start": []}'):
        assert read(cell).texts == ()
    assert read("lovely", 27, is_impossible=True).texts == ()
    assert read("lovely", 27, is_impossible="False").texts == ("lovely",)


def test_the_second_answer_stands_in_where_the_first_is_not_there():
    found = read(["horrible", "lovely"])
    assert found.texts == ("horrible", "lovely")
    assert found.start == 27
