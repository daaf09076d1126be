"""`luthier similar`: the nearest rows, the same as by hand, kept for the next call, and faults in words."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from transformers import AutoModel

import luthier
from luthier.cli.main import root
from luthier.errors import DataError
from luthier.workflow import similar as module
from tests import tiny


@pytest.fixture
def rows(tmp_path):
    """A file with three columns, an empty cell among them."""
    file = tmp_path / "rows.jsonl"
    texts = [t for t, _ in tiny.moods_rows(30)]
    lines = [{"title": t.split()[0], "body": t, "n": i} for i, t in enumerate(texts)] + [{"title": "x", "body": "", "n": 99}]
    file.write_text("\n".join(map(json.dumps, lines)))
    return file


def vector(folder, text: str) -> np.ndarray:
    """The mean of plain transformers' states, of length 1."""
    model = AutoModel.from_pretrained(folder).eval()
    with torch.no_grad():
        states = model(**tiny.tokenizer()(text, return_tensors="pt")).last_hidden_state[0].mean(0)
    return (states / states.norm()).numpy()


def test_the_nearest_rows_are_those_by_hand(tiny_model, rows):
    texts = [json.loads(line)["body"] for line in rows.read_text().splitlines()][:-1]
    found = luthier.similar(tiny_model, rows, "the film was lovely", k=3, column="body")
    cosines = np.array([vector(tiny_model, t) for t in texts]) @ vector(tiny_model, "the film was lovely")
    best = np.argsort(-cosines)[:3]
    assert [m.row["n"] for m in found.matches[0]] == best.tolist()
    np.testing.assert_allclose([m.score for m in found.matches[0]], cosines[best], atol=1e-5)
    assert found.matches[0][0].line == best[0] + 1
    assert any("1 rows left out" in n for n in found.notes)


def test_a_file_is_embedded_once(tiny_model, rows, monkeypatch):
    counted: list[int] = []
    real = module.Embedder.vectors
    monkeypatch.setattr(module.Embedder, "vectors", lambda self, texts: (counted.append(len(texts)), real(self, texts))[1])
    first = luthier.similar(tiny_model, rows, "so rude", column="title")
    again = luthier.similar(tiny_model, rows, ["so rude", "warm meal"], column="title")
    assert counted == [30 + 1, 1, 2]  # the file, then queries alone
    assert any("kept by an earlier call" in n for n in again.notes)
    assert [m.score for m in again.matches[0]] == pytest.approx([m.score for m in first.matches[0]], abs=1e-6)
    rows.write_text(rows.read_text().replace("lovely", "awful"))
    luthier.similar(tiny_model, rows, "so rude", column="body")
    assert counted[-2:] == [30, 1]
    kept = max((module.cache_folder().parent / "vectors").glob("*.safetensors"), key=lambda p: p.stat().st_mtime)
    kept.write_bytes(kept.read_bytes()[:40])  # a torn file is made anew
    luthier.similar(tiny_model, rows, "so rude", column="body")
    assert counted[-2:] == [30, 1]


def test_a_run_searches_the_column_of_its_positives(recipe, tmp_path, rows):
    data = tmp_path / "train.jsonl"
    lines = [json.loads(line) for line in rows.read_text().splitlines()]
    data.write_text("\n".join(json.dumps({"ask": r["body"], "body": r["body"] or "so", "n": r["n"]}) for r in lines if r["body"]))
    recipe["data"] = {"train": str(data), "text": "ask", "text_pair": "body"}
    recipe["evaluation"] = {"bootstrap": 100, "baselines": []}
    run = luthier.train({**recipe, "task": {"type": "embedding", "pooling": "first"}})
    found = luthier.similar(run, rows, "the film", k=100)
    assert len(found.matches[0]) == 30
    assert found.matches[0][0].text == found.matches[0][0].row["body"]
    mine = np.array(luthier.predict(run, [found.matches[0][0].text, "the film"])[0]["vector"])
    other = np.array(luthier.predict(run, ["the film"])[0]["vector"])
    assert float(mine @ other) == pytest.approx(found.matches[0][0].score, abs=1e-5)
    done = CliRunner().invoke(
        root, ["similar", run.id, str(rows), "the film", "a meal", "-k", "2", "--json", "--runs", recipe["output"]["folder"]]
    )
    assert done.exit_code == 0, done.output
    answers = json.loads(done.stdout)
    assert [len(a["matches"]) for a in answers] == [2, 2]
    assert answers[0]["matches"][0]["row"]["n"] == found.matches[0][0].row["n"]


def test_lines_for_people(tiny_model, tmp_path):
    file = tmp_path / "notes.csv"
    file.write_text("text\nthe film was great\nrude staff\n")
    done = CliRunner().invoke(root, ["similar", str(tiny_model), str(file), "film", "-k", "1"])
    assert done.exit_code == 0, done.output
    assert "notes.csv:2  the film was great" in done.stdout or "notes.csv:3  rude staff" in done.stdout


@pytest.mark.parametrize(
    ("query", "column", "message"),
    [
        ("film", "boddy", "did you mean 'body'"),
        ("film", None, "name it with --column"),
        (" ", "body", "empty"),
        ("film", "n", "no row has a text"),
    ],
)
def test_faults_are_said(tiny_model, rows, query, column, message):
    with pytest.raises(DataError, match=message):
        luthier.similar(tiny_model, rows, query, column=column)


def test_texts_need_no_file(tiny_model):
    found = luthier.similar(tiny_model, ["the film was great", "rude staff"], "the film was great", k=1)
    assert found.matches[0][0].score == pytest.approx(1.0, abs=1e-5)
    assert found.matches[0][0].line == 1
