"""Ejected scripts: in a process without Luthier they print the losses of the run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import luthier
from luthier.errors import RecipeError, SpaceError
from luthier.recipe import load_recipe
from luthier.serving.eject import eject, refusals
from tests import tiny

UPDATES = 12
ALONE = """
import runpy, sys
sys.modules['luthier'] = None
for script in sys.argv[1:]:
    print('SCRIPT', flush=True)
    runpy.run_path(script, run_name='__main__')
assert not [m for m in sys.modules if m.startswith('luthier.')]
"""
TEMPLATE = """{% for m in messages %}{% if m.role == 'assistant' %}[MASK] {{ m.content }} [SEP]{% else %}[CLS] {{ m.content }} {% endif %}{% endfor %}\
{% if add_generation_prompt %}[MASK]{% endif %}"""
LORA = {"type": "lora", "rank": 4, "target_modules": "attention"}


def run_alone(*scripts: Path) -> list[tuple[list[float], list[float], str]]:
    """(losses, learning rates, all that is printed) of each script."""
    done = subprocess.run(
        [sys.executable, "-I", "-c", ALONE, *map(str, scripts)], capture_output=True, text=True, check=False,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found = []
    for text in done.stdout.split("SCRIPT\n")[1:]:
        lines = re.findall(r"^update \d+ loss (\S+) learning rate (\S+)$", text, re.M)
        found.append(([float(a) for a, _ in lines], [float(b) for _, b in lines], text))
    return found


def held(run: luthier.Run) -> tuple[list[float], list[float]]:
    lines = run.lines("log.jsonl")
    return [r["loss"] for r in lines], [r["learning_rate"] for r in lines]


def made(kind: str, folder: Path) -> dict:
    """A recipe for a tiny model, with rows of many lengths, parts of an update and a last update that is not whole."""
    data: dict = {"train": str(folder / "rows.jsonl")}
    task: dict = {"type": kind, "max_new_tokens": 2}
    family = {"text2text": "t5"}.get(kind, "llama")
    sentences = [" ".join(tiny.WORDS[i - len(tiny.SPECIALS)] for i in ids) for ids in tiny.sentences(100, high=14)]
    rows: list[dict] = [{"text": s} for s in sentences]
    if kind == "classification":
        family, task = "bert", {"type": kind, "class_weights": {"positive": 2.0}, "label_smoothing": 0.1}
        rows = [{"text": t, "label": label} for t, label in tiny.moods_rows(100)]
    elif kind == "text2text":
        rows = [{"text": s, "label": " ".join(s.split()[::-1])} for s in sentences]
        task["label_smoothing"] = 0.1
    elif kind == "chat":
        rows = [
            {"messages": [{"role": r, "content": t} for r, t in zip(("user", "assistant") * 2, sentences[i : i + 4], strict=False)]}
            for i in range(0, 96, 2)
        ]
        (folder / "template.jinja").write_text(TEMPLATE)
        task |= {"template": str(folder / "template.jinja"), "z_loss": 0.01}
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "data": data,
        "task": task,
        "model": {"name": str(tiny.save(family, folder / "model")), "dropout": 0.0},
        "training": {
            "max_steps": UPDATES, "batch_size": 6, "gradient_accumulation": 2, "learning_rate": 1e-2, "threads": 1, "max_grad_norm": 0.5,
            "schedule": "cosine", "seed": 3,
        },
        "evaluation": {"bootstrap": 100, "baselines": [], "base_model": False, "written": 0, "restore_best": False},
        "output": {"folder": str(folder / "runs"), "name": "tiny"},
    }  # fmt: skip


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("kind", ["classification", "causal", "chat", "text2text"])
def test_both_levels_repeat_the_run(kind, method, tmp_path):
    recipe = made(kind, tmp_path)
    if method == "lora":
        recipe["method"] = LORA | ({"plus_ratio": 4.0} if kind == "causal" else {})
    run = luthier.train(recipe)
    losses, rates = held(run)
    assert max(losses) - min(losses) > 0.01 * max(losses)
    done = [eject(load_recipe(recipe), level=level, script=tmp_path / f"{level}.py") for level in ("pytorch", "transformers")]
    assert all(d.exact and d.updates == UPDATES for d in done)
    last = run.lines("evaluations.jsonl")[-1]["loss"]
    for found, found_rates, text in run_alone(*(d.script for d in done)):
        assert found == pytest.approx(losses, rel=2e-5)
        assert found_rates == pytest.approx(rates, rel=1e-6)
        if kind != "classification":  # its score of that name knows no smoothing and no weights
            plain = recipe["task"].get("label_smoothing") or recipe["task"].get("z_loss")
            assert plain or float(re.search(r"validation loss (\S+)", text)[1]) == pytest.approx(last, rel=1e-4)
    for d in done:
        assert (d.script.with_name(f"{d.script.stem}_model") / "tokenizer.json").is_file()


@pytest.mark.parametrize("method", [{"type": "freeze", "layers": 1}, {"type": "bitfit"}, {"type": "norms"}], ids=lambda m: m["type"])
def test_methods_that_are_lists_of_weights(method, tmp_path):
    recipe = made("classification", tmp_path) | {"method": method}
    losses, _ = held(luthier.train(recipe))
    done = eject(load_recipe(recipe), level="pytorch", script=tmp_path / "train.py")
    assert run_alone(done.script)[0][0] == pytest.approx(losses, rel=2e-5)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_other_kinds_of_classification_and_schedules(kind, tmp_path):
    recipe = made("classification", tmp_path)
    recipe["task"] = {"type": "classification", "kind": kind, **({"label_smoothing": 0.1} if kind == "multi_label" else {})}
    numbers = {"negative": 1.0, "neutral": 2.5, "positive": 4.0}
    rows = [{"text": t, "label": numbers[c] if kind == "regression" else f"{c}|any"} for t, c in tiny.moods_rows(100)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    if kind == "multi_label":
        recipe["data"]["label_separator"] = "|"
    recipe["training"]["schedule"] = {"multi_label": "one_cycle", "regression": "constant"}[kind]
    losses, rates = held(luthier.train(recipe))
    done = [eject(load_recipe(recipe), level=level, script=tmp_path / f"{level}.py") for level in ("pytorch", "transformers")]
    for found, found_rates, _ in run_alone(*(d.script for d in done)):
        assert found == pytest.approx(losses, rel=2e-5)
        assert found_rates == pytest.approx(rates, rel=1e-6)


def test_a_model_from_nothing_starts_from_the_weights_beside_the_script(tmp_path):
    recipe = made("causal", tmp_path)
    recipe["model"] = {"from_scratch": {"vocabulary": 320, "hidden_size": 16, "layers": 1, "heads": 2, "context": 64}, "dropout": 0.0}
    losses, _ = held(luthier.train(recipe))
    done = eject(load_recipe(recipe), level="pytorch", script=tmp_path / "train.py")
    assert "BASE" not in done.script.read_text()
    assert run_alone(done.script)[0][0] == pytest.approx(losses, rel=2e-5)


def test_dropout_is_said(tmp_path):
    recipe = made("classification", tmp_path)
    recipe["model"].pop("dropout")
    done = eject(load_recipe(recipe), level="pytorch", script=tmp_path / "train.py")
    assert not done.exact
    assert "model.dropout: 0" in done.script.read_text()
    with pytest.raises(SpaceError, match="there already"):
        eject(load_recipe(recipe), level="pytorch", script=tmp_path / "train.py")


@pytest.mark.parametrize(
    ("changes", "where", "why"),
    [
        ({"task": "masked"}, "task.type", "each epoch"),
        ({"method": "adalora"}, "method", "each update"),
        ({"method": "prefix"}, "method", "each update"),
        ({"method": {"type": "lora", "init": "pissa"}}, "method.init", "base weights"),
        ({"method": {"type": "freeze", "unfreeze": 0.5}}, "method.unfreeze", "as training goes on"),
        ({"model": {"head": "mlp"}}, "model.head", "not part of transformers"),
        ({"training": {"schedule": "plateau"}}, "training.schedule", "validation loss"),
    ],
)
def test_what_a_script_cannot_show_is_refused(changes, where, why, tmp_path):
    recipe = load_recipe({"data": "rows.csv", **changes})
    assert [f.where for f in refusals(recipe.recipe)] == [where]
    with pytest.raises(RecipeError, match=why):
        eject(recipe, level="pytorch", script=tmp_path / "train.py")
    assert not list(tmp_path.iterdir())


def test_ordinary_recipes_are_not_refused():
    assert not list(refusals(load_recipe({"data": "rows.csv"}).recipe))
    every = {"training": {"early_stopping": 2, "max_steps": 3, "seed": 4, "threads": 1}, "model": {"dropout": 0.0, "layers": 1}}
    assert not list(refusals(load_recipe({"data": "rows.csv", **every}).recipe))
