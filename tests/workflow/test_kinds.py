"""Every kind of classification on the real path, and what is saved from it."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

import luthier
from luthier.errors import LuthierError, RunError
from luthier.recipe import load_recipe
from luthier.runs.store import Registry
from luthier.serving.export import export_hf
from tests import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def learn(recipe):
    """Train with changes to the tiny recipe."""

    def run(**sections) -> luthier.Run:
        merged = {k: {**recipe.get(k, {}), **sections.get(k, {})} for k in {*recipe, *sections}}
        return luthier.train(merged)

    return run


def value(run: luthier.Run, score: str, method: str = "model") -> float:
    return run.scores["methods"][method][score]["value"]


def test_single_label_learns(learn, tmp_path):
    run = learn(data={"train": str(tiny.write_moods(tmp_path / "more.csv", 240))}, training={"epochs": 8, "learning_rate": 5e-3})
    assert value(run, "accuracy") > 0.9
    assert value(run, "accuracy", "majority") < 0.5


def test_multi_label_learns(learn, write_csv):
    draw, rows = random.Random(0), []
    for text, label in tiny.moods_rows(240):
        extra = draw.random() < 0.5
        text = " ".join(w for w in text.split() if w not in ("staff", "service"))
        rows.append([text + (" staff service" if extra else " film"), label + ("|people" if extra else "")])
    path = write_csv("many.csv", ["text", "label"], rows)
    run = learn(data={"train": str(path), "label_separator": "|"}, training={"epochs": 12, "learning_rate": 5e-3})
    assert value(run, "f1_micro") > 0.4
    rows = run.lines("predictions/test.jsonl")  # one of the four labels is easy: a coin would get half of it
    assert sum(("people" in r["labels"]) == ("people" in r["target"]) for r in rows) > 0.85 * len(rows)
    answer = luthier.predict(run, ["the meal was great staff service"])[0]
    assert set(answer) == {"labels", "scores"}


def test_regression_learns(learn, write_csv):
    scale = {"negative": 1.0, "neutral": 5.0, "positive": 9.0}
    path = write_csv("n.csv", ["text", "label"], [[t, scale[label] + 0.25] for t, label in tiny.moods_rows(150)])
    run = learn(data={"train": str(path)}, training={"epochs": 20, "learning_rate": 1e-2})
    assert run.facts["task"] == "classification/regression"
    assert value(run, "pearson") > 0.9
    assert value(run, "rmse") < value(run, "rmse", "majority")
    assert "value" in luthier.predict(run, ["so lovely"])[0]


def test_pairs_learn(learn, write_csv):
    draw, rows = random.Random(0), []
    for text, label in tiny.moods_rows(240):
        other, other_label = draw.choice(tiny.moods_rows(30, seed=1))
        rows.append([text, other, label + "/" + other_label])
    path = write_csv("p.csv", ["a", "b", "label"], [r for r in rows if not r[2].startswith("neutral") and not r[2].endswith("neutral")])
    run = learn(data={"train": str(path), "text": "a", "text_pair": "b"}, training={"epochs": 30, "learning_rate": 5e-3})
    assert value(run, "accuracy") > 0.6
    answers = luthier.predict(run, [{"a": "the film was great", "b": "so rude"}])
    assert answers[0]["label"] in run.facts["data"]["summary"]["labels"]["train"]
    with pytest.raises(LuthierError, match="empty text"):
        luthier.predict(run, ["alone"])


@pytest.mark.parametrize("family", ["distilbert", "roberta", "modernbert", "gpt2", "opt", "llama", "qwen3"])
def test_every_family_learns_saves_and_answers_the_same(learn, tmp_path, family):
    folder = tiny.save(family, tmp_path / family)
    run = learn(
        data={"train": str(tiny.write_moods(tmp_path / "more.csv", 240))},
        model={"name": str(folder)}, training={"epochs": 8, "learning_rate": 1e-2},
    )  # fmt: skip
    assert run.facts["layout"]["kind"] == "ragged"
    assert value(run, "accuracy") > 0.55
    assert export_hf(run, tmp_path / "out") < 1e-4


def test_a_tokenizer_without_a_pad_token_gets_one_and_says_so(learn, tmp_path):
    folder = tiny.save("gpt2", tmp_path / "gpt2", pad_token_id=None)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    settings.pop("pad_token")
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    run = learn(model={"name": str(folder)})
    assert any("has no pad token" in n for n in run.facts["notes"])
    assert json.loads((run.model / "config.json").read_text())["pad_token_id"] == 3
    assert export_hf(run, tmp_path / "out") < 1e-4


@pytest.mark.parametrize("head", ["mlp", "own_head:make"])
def test_other_heads_learn_and_come_back_but_are_not_exported(learn, tmp_path, monkeypatch, head):
    (tmp_path / "own_head.py").write_text(
        "from torch import nn\n\ndef make(width, outputs):\n    return nn.Sequential(nn.Tanh(), nn.Linear(width, outputs))\n"
    )
    monkeypatch.chdir(tmp_path)
    run = learn(model={"head": head}, training={"epochs": 10})
    assert value(run, "accuracy") > 0.6
    scores, _ = luthier.evaluate(run)
    assert scores["accuracy"]["value"] == value(run, "accuracy")
    with pytest.raises(RunError, match="not part of the architecture"):
        export_hf(run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_head_of_the_wrong_shape_is_refused(learn, tmp_path, monkeypatch):
    (tmp_path / "bad_head.py").write_text("from torch import nn\n\ndef make(width, outputs):\n    return nn.Linear(width, outputs + 1)\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LuthierError, match=r"maps \(2, 32\) to \(2, 4\), not \(2, 3\)"):
        learn(model={"head": "bad_head:make"})


def test_a_padded_architecture_learns_and_says_so(learn, tmp_path):
    folder = tiny.save("deberta", tmp_path / "deberta")
    run = learn(model={"name": str(folder)}, training={"epochs": 6, "learning_rate": 5e-3})
    assert run.facts["layout"]["kind"] == "padded"
    assert any(n.startswith("batches are padded") for n in run.facts["notes"])
    assert value(run, "accuracy") > 0.55


def test_a_prompt_is_used_in_training_and_in_prediction(learn):
    run = learn(task={"prompt": "we found this quite : {text}"})
    assert run.lines("predictions/test.jsonl")[0]["text"].startswith("we found this quite : ")
    assert "Prompt" in (run.model / "README.md").read_text()
    row = run.lines("predictions/test.jsonl")[0]
    bare = row["text"].removeprefix("we found this quite : ")
    assert luthier.predict(run, [bare])[0]["scores"] == pytest.approx(row["scores"], abs=1e-5)


def test_a_tokenizer_that_does_not_know_the_words_is_pointed_out(learn, write_csv):
    rows = [
        [f"xyzzy{i} " + t, label]
        for i, (t, label) in enumerate((" ".join("q" + w for w in t.split()), label) for t, label in tiny.moods_rows(60))
    ]
    run = learn(data={"train": str(write_csv("x.csv", ["text", "label"], rows))})
    assert any("are unknown to the tokenizer" in n for n in run.facts["notes"])


def test_kept_layers_are_the_bottom_ones(learn, tiny_model):
    run = learn(model={"layers": 1}, training={"learning_rate": 1e-9})
    kept, whole = load_file(run.model / "model.safetensors"), load_file(tiny_model / "model.safetensors")
    name = "encoder.layer.0.output.dense.weight"
    assert torch.allclose(kept[f"bert.{name}"], whole[name], atol=1e-6)
    assert not any("layer.1." in n for n in kept)


def test_truncation_is_counted_and_shown(learn, write_csv):
    rows = [[t if i % 4 else " ".join([t] * 30), label] for i, (t, label) in enumerate(tiny.moods_rows(80))]
    run = learn(data={"train": str(write_csv("long.csv", ["text", "label"], rows))})
    cut = sum(t["truncated"] for t in run.facts["tokens"].values())
    assert cut == 20
    assert any("are cut to 64 tokens" in n for n in run.facts["notes"])
    assert "texts cut" in run.report.read_text()


def test_the_exported_folder_answers_the_same_in_a_process_without_luthier(learn, tmp_path):
    run = learn(training={"epochs": 4})
    export_hf(run, tmp_path / "out")
    rows = run.lines("predictions/test.jsonl")
    script = f"""
import json, sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'luthier':
            raise ImportError('no luthier here')
sys.meta_path.insert(0, Refuse())
from transformers import pipeline
classify = pipeline('text-classification', {str(tmp_path / "out")!r}, top_k=None)
print(json.dumps(classify({[r["text"] for r in rows]!r})))
assert 'luthier' not in sys.modules
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env={**os.environ, "HF_HUB_OFFLINE": "1"}
    )
    for row, answer in zip(rows, json.loads(done.stdout.splitlines()[-1]), strict=True):
        assert {a["label"]: a["score"] for a in answer} == pytest.approx(row["scores"], abs=1e-5)


def test_the_registry_is_rebuilt_from_the_folders(learn, tmp_path):
    first, second = learn(), learn()
    root = first.folder.parent
    before = Registry(root).rows()
    assert [r["id"] for r in before] == [second.id, first.id]
    for path in root.glob("runs.db*"):
        path.unlink()
    assert Registry(root).rows() == before
    (root / "runs.db").write_bytes(b"not a database at all" * 100)
    assert Registry(root).rows() == before


def test_the_report_escapes_what_the_data_hold(learn, write_csv):
    rows = [[f"<script>alert({i})</script> {t}", "<b>" + label] for i, (t, label) in enumerate(tiny.moods_rows(60))]
    run = learn(data={"train": str(write_csv("x.csv", ["text", "label"], rows))})
    page = run.report.read_text()
    assert "<script" not in page
    assert "<b>pos" not in page
    assert "&lt;b&gt;" in page


RECIPES = sorted((ROOT / "recipes").glob("*.yaml"))
ARCHITECTURES = {
    "causal": "llama",
    "chat": "llama",
    "preference": "llama",
    "reward": "llama",
    "policy": "llama",
    "masked": "bert",
    "text2text": "t5",
}


def small(path: Path, tiny_model: Path) -> list[str]:
    """Overrides that put a tiny model in place of the recipe's own."""
    options = load_recipe(path).recipe.task
    task = next(iter(options.tasks.values())).options.type if options.type == "multitask" else options.type
    if task not in ARCHITECTURES:
        return [f"model.name={tiny_model}", "model.max_length=auto"]
    sizes = f"{{architecture: {ARCHITECTURES[task]}, vocabulary: 400, hidden_size: 16, layers: 1, heads: 2, context: 768}}"
    own = {
        "masked": [],
        "preference": ["task.max_new_tokens=4", "method=full"],
        "policy": ["task.max_new_tokens=4", "method=full"],
        "reward": ["method=full"],
        "text2text": ["task.max_new_tokens=4", "task.max_target=380"],
    }.get(task, ["task.max_new_tokens=4"])
    return [f"model={{from_scratch: {sizes}}}", "evaluation.written=2", "training.epochs=1", *(own if options.type == task else [])]


@pytest.mark.parametrize("path", [p for p in RECIPES if p.stem not in ("quotes", "sequence")], ids=lambda p: p.stem)
def test_every_recipe_trains_on_its_sample(path, tmp_path, tiny_model):
    """Quotes and films' reviews have no licence that would let their sample ship; `sequence` trains in the slow test."""
    sample = ["data.sample=true"] if "sample" not in path.read_text() else []
    run = luthier.train(path, overrides=[
        *sample, *small(path, tiny_model), "training.max_steps=3", f"output.folder={tmp_path}", "evaluation.bootstrap=100",
        "training.threads=1",
    ])  # fmt: skip
    assert run.facts["status"] == "done"
    assert run.report.is_file()


@pytest.mark.slow
@pytest.mark.parametrize("path", RECIPES, ids=lambda p: p.stem)
def test_every_recipe_trains_on_real_data(path, tmp_path, monkeypatch):
    folder = Path(os.environ.get("LUTHIER_DATA", ROOT.parent / "shared" / "data"))
    name = load_recipe(path).recipe.data.name
    if name is not None and not (folder / name).is_dir() and "sample" not in path.read_text():
        pytest.skip(f"{name} is not here")
    monkeypatch.setenv("LUTHIER_DATA", str(folder))
    task, stages = load_recipe(path).recipe.task.type, load_recipe(path).recipe.curriculum.type == "sequential"
    brief = "training.epochs=1" if stages else "training.max_steps=8"  # every stage has its turn
    written = ["evaluation.written=4"] if task != "classification" else ["evaluation.baselines=[majority]"]
    run = luthier.train(path, overrides=[
        "data.limit=400", brief, f"output.folder={tmp_path}", "evaluation.bootstrap=100", *written,
    ])  # fmt: skip
    assert run.facts["status"] == "done"
    summary = run.facts["data"]["summary"]
    if "limit:" not in path.read_text():  # a task's own limit counts before the recipe's
        assert summary["train"] <= 400 * max(1, len(summary.get("tasks", {})))  # each of several tasks has its own rows


def test_classification_recipes_say_only_what_differs_from_the_defaults():
    for path in RECIPES:
        resolved = load_recipe(path)
        if resolved.recipe.task.type == "classification":
            assert "training" not in yaml.safe_load(path.read_text()), f"{path.name}: defaults are the point"
            assert resolved.recipe.model.name == "minilm"
