"""SQuAD's nested JSON becomes rows, one a question."""

from __future__ import annotations

import json

import pytest

from luthier.data.rows import read
from luthier.data.squad import flatten, is_squad


def nested(version: int = 1) -> dict:
    def asked(i: int) -> dict:
        answer = {"text": "lovely", "answer_start": 13}
        if version == 1:
            return {"id": f"q{i}", "question": f"what was it {i}", "answers": [answer]}
        return {"id": f"q{i}", "question": f"what was it {i}", "answers": [] if i % 2 else [answer], "is_impossible": bool(i % 2)}

    paragraph = {"context": "the film was lovely", "qas": [asked(i) for i in range(3)]}
    return {"version": str(version), "data": [{"title": "Films", "paragraphs": [paragraph, paragraph]}]}


@pytest.mark.parametrize("version", [1, 2])
def test_every_question_is_a_row(tmp_path, version):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(nested(version)))
    rows = read(path)
    assert len(rows.rows) == 6
    assert not rows.quarantined
    first = rows.rows[1].values
    assert (first["title"], first["context"], first["question"]) == ("Films", "the film was lovely", "what was it 1")
    assert first["answers"] == ([] if version == 2 else [{"text": "lovely", "answer_start": 13}])
    assert first.get("is_impossible") == (True if version == 2 else None)
    assert [r.line for r in rows.rows] == [1, 2, 3, 4, 5, 6]


def test_what_is_no_question_is_quarantined_with_its_place(tmp_path):
    broken = nested()
    broken["data"] += [{"title": "none"}, "text", {"title": "t", "paragraphs": [{"qas": []}, {"context": "c", "qas": [7, {"id": "x"}]}]}]
    path = tmp_path / "train.json"
    path.write_text(json.dumps(broken))
    rows = read(path)
    assert len(rows.rows) == 6
    assert [q.line for q in rows.quarantined] == [7, 8, 9, 10, 11]
    assert {q.reason for q in rows.quarantined} == {
        "an article without paragraphs",
        "a paragraph without a context or questions",
        "no question",
    }


@pytest.mark.parametrize("value", [[], {}, {"data": []}, {"data": [{"text": "a"}]}, {"rows": [{"paragraphs": []}]}, "x", None])
def test_other_json_is_left_alone(value):
    assert not is_squad(value)


def test_rows_under_data_are_still_rows(tmp_path):
    path = tmp_path / "flat.json"
    path.write_text(json.dumps({"version": "1", "data": [{"context": "c", "question": "q"}]}))
    assert read(path).rows[0].values == {"context": "c", "question": "q"}
    assert flatten({"data": []}) == []
