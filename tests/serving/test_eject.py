"""Ejected scripts: in a process without Luthier they print the losses of the run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

import luthier
from luthier.errors import RecipeError, SpaceError
from luthier.recipe import load_recipe
from luthier.serving.eject import eject, refusals
from tests import tiny

UPDATES = 12
ALONE = """
import runpy, sys, traceback
sys.modules['luthier'] = None
for script in sys.stdin:
    try:
        runpy.run_path(script.rstrip(), run_name='__main__')
    except BaseException:
        traceback.print_exc(file=sys.stdout)
    if found := [m for m in sys.modules if m.startswith('luthier.')]:
        print('Traceback: imported', *found)
    print('END OF SCRIPT', flush=True)
"""
TEMPLATE = """{% for m in messages %}{% if m.role == 'assistant' %}[MASK] {{ m.content }} [SEP]{% else %}[CLS] {{ m.content }} {% endif %}{% endfor %}\
{% if add_generation_prompt %}[MASK]{% endif %}"""
LORA = {"type": "lora", "rank": 4, "target_modules": "attention"}


class Printed(NamedTuple):
    """What a script says: a loss and a learning rate an update, and the whole text."""

    losses: list[float]
    rates: list[float]
    text: str


@pytest.fixture(scope="module")
def alone() -> Iterator[Callable[[Path], Printed]]:
    """A process without Luthier that runs the scripts it is given: one, for it takes long to import torch."""
    command = [sys.executable, "-I", "-u", "-c", ALONE]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def run(script: Path) -> Printed:
            print(script, file=process.stdin, flush=True)
            text = ""
            for line in process.stdout:
                if line == "END OF SCRIPT\n":
                    break
                text += line
            else:
                pytest.fail(f"the process has ended: {text[-3000:]}")
            assert "Traceback" not in text, text[-3000:]
            updates = re.findall(r"^update \d+ loss (\S+) learning rate (\S+)$", text, re.M)
            return Printed([float(a) for a, _ in updates], [float(b) for _, b in updates], text)

        yield run


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
def test_both_levels_repeat_the_run(kind, method, tmp_path, alone):
    recipe = made(kind, tmp_path)
    if method == "lora":
        recipe["method"] = LORA | ({"plus_ratio": 4.0} if kind == "causal" else {})
    run = luthier.train(recipe)
    losses, rates = held(run)
    assert max(losses) - min(losses) > 0.01 * max(losses)
    done = [eject(load_recipe(recipe), level=level, script=tmp_path / f"{level}.py") for level in ("pytorch", "transformers")]
    assert all(d.exact and d.updates == UPDATES for d in done)
    last = run.lines("evaluations.jsonl")[-1]["loss"]
    for found, found_rates, text in map(alone, (d.script for d in done)):
        assert found == pytest.approx(losses, rel=2e-5)
        assert found_rates == pytest.approx(rates, rel=1e-6)
        if kind != "classification":  # its score of that name knows no smoothing and no weights
            plain = recipe["task"].get("label_smoothing") or recipe["task"].get("z_loss")
            assert plain or float(re.search(r"validation loss (\S+)", text)[1]) == pytest.approx(last, rel=1e-4)
    for d in done:
        assert (d.script.with_name(f"{d.script.stem}_model") / "tokenizer.json").is_file()


@pytest.mark.parametrize("method", [{"type": "freeze", "layers": 1}, {"type": "bitfit"}, {"type": "norms"}], ids=lambda m: m["type"])
def test_methods_that_are_lists_of_weights(method, tmp_path, alone):
    recipe = made("classification", tmp_path) | {"method": method}
    losses, _ = held(luthier.train(recipe))
    done = eject(load_recipe(recipe), level="pytorch", script=tmp_path / "train.py")
    assert alone(done.script).losses == pytest.approx(losses, rel=2e-5)


@pytest.mark.parametrize("kind", ["multi_label", "regression"])
def test_other_kinds_of_classification_and_schedules(kind, tmp_path, alone):
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
    for found, found_rates, _ in map(alone, (d.script for d in done)):
        assert found == pytest.approx(losses, rel=2e-5)
        assert found_rates == pytest.approx(rates, rel=1e-6)


def test_a_model_from_nothing_starts_from_the_weights_beside_the_script(tmp_path, alone):
    recipe = made("causal", tmp_path)
    recipe["model"] = {"from_scratch": {"vocabulary": 320, "hidden_size": 16, "layers": 1, "heads": 2, "context": 64}, "dropout": 0.0}
    losses, _ = held(luthier.train(recipe))
    done = eject(load_recipe(recipe), level="pytorch", script=tmp_path / "train.py")
    assert "BASE" not in done.script.read_text()
    assert alone(done.script).losses == pytest.approx(losses, rel=2e-5)


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
