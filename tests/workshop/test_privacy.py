"""Names by a tagging run and toxic texts by a classification run: what the run says is what is masked, and other runs are refused."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

import luthier
from luthier.data.stages.stage import make
from luthier.errors import RunError
from luthier.recipe.stages.privacy import PrivacyOptions
from luthier.workflow.measure import predictor_of
from luthier.workshop.privacy import finder, judge
from tests import tiny


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny_model):
    """A tagging run that calls happy words persons, and a classification run on moods."""
    folder = tmp_path_factory.mktemp("runs")
    rows = []
    for text, _ in tiny.moods_rows(150):
        tokens = text.split()
        rows.append({"words": tokens, "tags": ["B-PER" if t in tiny.MOOD_WORDS["positive"] else "O" for t in tokens]})
    (folder / "tags.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    base = {
        "model": {"name": str(tiny_model)}, "training": {"epochs": 6, "batch_size": 16, "learning_rate": 5e-3, "threads": 1},
        "evaluation": {"bootstrap": 100, "baselines": [], "base_model": False, "general_probe": False},
    }  # fmt: skip
    shares = {"validation_share": 0.15, "test_share": 0.15}
    tags = luthier.train(
        {
            **base,
            "data": {"train": str(folder / "tags.jsonl"), **shares},
            "task": "tagging",
            "output": {"folder": str(folder), "name": "names"},
        }
    )
    moods = tiny.write_moods(folder / "moods.csv")
    kinds = luthier.train(
        {**base, "data": {"train": str(moods), **shares}, "task": "classification", "output": {"folder": str(folder), "name": "moods"}}
    )
    return tags, kinds


def test_what_a_run_tags_as_a_person_is_masked(runs):
    tags, _ = runs
    texts = ["the film was lovely and bright today", "the staff was rude", ""]
    said = predictor_of(tags).predict(texts[:2])
    schema = pa.schema([("text", pa.string()), ("__file", pa.string()), ("__line", pa.int64()), ("__row", pa.int64())])
    batch = pa.RecordBatch.from_pylist([{"text": t, "__file": "f", "__line": i, "__row": i} for i, t in enumerate(texts)], schema=schema)
    masked = make(PrivacyOptions(names=str(tags.folder), types=["name"]), schema)(batch).batch.column("text").to_pylist()
    for text, answer, got in zip(texts, said, masked, strict=False):
        for span in sorted(answer["spans"], key=lambda s: -s["start"]):
            if span["score"] >= 0.5:
                text = text[: span["start"]] + "[NAME]" + text[span["end"] :]
        assert got == text
    assert "[NAME]" in masked[0]
    assert masked[2] == ""


def test_a_run_judges_texts(runs):
    _, kinds = runs
    texts = ["the film was lovely and bright", "", "the staff was rude and awful"]
    said = judge(kinds.folder, "negative")(texts)
    answers = predictor_of(kinds).predict([texts[0], texts[2]])
    assert said == [answers[0]["label"] == "negative", False, answers[1]["label"] == "negative"]
    assert any(said)


def test_runs_of_another_kind_are_refused(runs):
    _, kinds = runs
    with pytest.raises(RunError, match="finds no names of persons: its task is classification"):
        finder(str(kinds.folder))
    with pytest.raises(RunError, match="no label 'negativ'") as raised:
        judge(kinds.folder, "negativ")
    assert "did you mean 'negative'" in str(raised.value)
