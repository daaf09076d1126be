"""Whole runs: old skills last longer where they are protected, and a killed run ends in the same bits."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

import luthier
from luthier.errors import Interrupted, ModelError
from luthier.workflow.events import Stepped
from tests import tiny
from tests.retention import world

QUICK = {"bootstrap": 100, "baselines": [], "base_model": False, "restore_best": False}


@pytest.fixture(scope="module")
def sequence(tmp_path_factory) -> dict[str, Any]:
    """A model that has learned moods, their rows, and new rows that say something else of them."""
    folder = tmp_path_factory.mktemp("sequence")
    old, new = tiny.moods_rows(180), world.turned(tiny.moods_rows(120, seed=7))
    world.write(folder / "old.csv", old)
    world.write(folder / "new.csv", new)
    tiny.save("bert", folder / "bert", initializer_range=0.1)
    first = luthier.train(
        {
            "data": {"train": str(folder / "old.csv")}, "model": {"name": str(folder / "bert"), "dropout": 0.1}, "evaluation": QUICK,
            "training": {"epochs": 12, "batch_size": 16, "learning_rate": 5e-3, "threads": 1}, "output": {"folder": str(folder / "runs"), "name": "first"},
        }
    )  # fmt: skip
    assert first.scores["methods"]["model"]["accuracy"]["value"] > 0.8
    return {"folder": folder, "first": first}


def second(sequence, retention: Any = "none", **changes: Any) -> dict[str, Any]:
    folder = sequence["folder"]
    recipe: dict[str, Any] = {
        "data": {"train": str(folder / "new.csv")}, "model": {"name": str(sequence["first"].folder), "dropout": 0.1}, "retention": retention,
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 1e-3, "threads": 1},
        "evaluation": {**QUICK, "probes": {"moods": str(folder / "old.csv")}}, "output": {"folder": str(folder / "runs"), "name": "second"},
    }  # fmt: skip
    for section, values in changes.items():
        recipe[section] = {**recipe.get(section, {}), **values}
    return recipe


def forgotten(run: luthier.Run) -> float:
    """How much accuracy was lost on the old rows."""
    return -run.scores["probes"]["moods"]["difference"]["accuracy"]["value"]


def distance(run: luthier.Run, first: luthier.Run) -> float:
    a, b = (load_file(r.model / "model.safetensors") for r in (run, first))
    return float(sum((a[n] - b[n]).square().sum() for n in a)) ** 0.5


@pytest.fixture(scope="module")
def unprotected(sequence) -> luthier.Run:
    run = luthier.train(second(sequence))
    assert forgotten(run) > 0.3
    return run


STRONG = {
    "l2sp": {"strength": 100.0, "head_strength": 100.0},
    "ewc": {"strength": 1e6},
    "distill": {"strength": 30.0},
    "soup": {"weight": 0.2},
}


@pytest.mark.parametrize("name", sorted(STRONG))
def test_protected_skills_last(sequence, unprotected, name):
    old = str(sequence["folder"] / "old.csv")
    options = {"type": name, **STRONG[name], **({"data": old} if name in ("ewc", "distill") else {})}
    run = luthier.train(second(sequence, options))
    assert forgotten(run) < forgotten(unprotected) / 2
    assert distance(run, sequence["first"]) < 0.8 * distance(unprotected, sequence["first"])
    assert run.facts["retention"] == name
    assert (name == "soup") == ("mix" in run.facts)
    assert all(("retention" in line["parts"]) == (name != "soup") for line in run.lines("log.jsonl"))


def test_a_soup_is_judged_by_validation_and_probes(sequence, unprotected):
    notes: list[str] = []
    run = luthier.train(second(sequence, {"type": "soup", "steps": 4}), listener=lambda e: notes.append(getattr(e, "text", "")))
    tried = {t["weight"]: t for t in run.facts["mix"]["tried"]}
    earlier = f"earlier:{sequence['first'].id}"
    assert set(tried[0.0]) == {"weight", "validation", "moods", earlier}
    cost = {w: t["validation"] + (t["moods"] + t[earlier]) / 2 for w, t in tried.items()}
    assert cost[run.facts["mix"]["weight"]] == min(cost.values())
    assert any("least loss on validation and probes" in n for n in notes)
    assert tried[1.0]["moods"] == pytest.approx(unprotected.scores["probes"]["moods"]["model"]["loss"]["value"], rel=1e-4)
    assert tried[0.0]["moods"] == pytest.approx(unprotected.scores["probes"]["moods"]["base"]["loss"]["value"], rel=1e-4)


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_a_run_whose_soup_is_one_end_saves_those_bits(sequence, unprotected, weight):
    run = luthier.train(second(sequence, {"type": "soup", "weight": weight}))
    end = sequence["first"] if weight == 0 else unprotected
    a, b = (load_file(r.model / "model.safetensors") for r in (run, end))
    assert a.keys() == b.keys()
    assert all(torch.equal(a[n], b[n]) for n in a)
    assert weight == 1 or (run.facts["weights_digest"] != unprotected.facts["weights_digest"])


def stopping_at(step: int):
    def listen(event) -> None:
        if isinstance(event, Stepped) and event.report.step == step:
            os.kill(os.getpid(), signal.SIGTERM)

    return listen


WAYS = {
    "ewc": {"strength": 1e4, "rows": 20},
    "distill": {"strength": 2.0},
    "l2sp": {},
    "soup": {"steps": 2},
}


@pytest.mark.parametrize("name", sorted(WAYS))
def test_a_stopped_run_resumes_to_the_same_bits(sequence, name):
    old = str(sequence["folder"] / "old.csv")
    recipe = second(sequence, {"type": name, **WAYS[name], **({"data": old} if name in ("ewc", "distill") else {})})
    whole = luthier.train(recipe)
    with pytest.raises(Interrupted):
        luthier.train(recipe, listener=stopping_at(5))
    resumed = luthier.resume(luthier.find("latest", root=sequence["folder"] / "runs"))
    assert resumed.facts["weights_sha256"] == whole.facts["weights_sha256"]
    assert (resumed.folder / "log.jsonl").read_bytes() == (whole.folder / "log.jsonl").read_bytes()
    assert resumed.scores["probes"] == whole.scores["probes"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ewc", "distill"])
def test_a_killed_process_resumes_to_the_same_bits(sequence, name, tmp_path):
    old = str(sequence["folder"] / "old.csv")
    recipe = second(sequence, {"type": name, **WAYS[name], "data": old}, training={"epochs": 40}, checkpoints={"every_steps": 3})
    recipe["output"] = {"folder": str(tmp_path / "runs"), "name": "killed"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe))
    whole = luthier.train(path)
    process = subprocess.Popen(
        [sys.executable, "-m", "luthier.cli.main", "train", str(path)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    log = tmp_path / "runs" / "killed-2" / "log.jsonl"
    while process.poll() is None and not (log.exists() and log.read_bytes().count(b"\n") > 8):
        time.sleep(0.005)
    time.sleep(random.Random(0).random() * 0.1)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it ended before it could be killed: make the training longer"
    resumed = luthier.resume(luthier.find("killed-2", root=tmp_path / "runs"))
    assert resumed.facts["weights_sha256"] == whole.facts["weights_sha256"]
    assert (resumed.folder / "log.jsonl").read_bytes() == (whole.folder / "log.jsonl").read_bytes()


@pytest.mark.parametrize("name", sorted(WAYS))
def test_with_lora(tmp_path, name):
    """On a decoder that writes: what is saved is plain PEFT, and a strong hand keeps it nearer to the base."""
    tiny.save("llama", tmp_path / "llama")
    rows = [{"prompt": t, "completion": label} for t, label in tiny.moods_rows(48)]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    strong = {
        "ewc": {"strength": 1e7, "data": str(tmp_path / "rows.jsonl")},
        "l2sp": {"strength": 100.0},
        "distill": {"strength": 100.0},
        "soup": {"weight": 0.1},
    }
    changes = {}
    for kind in ("none", name):
        run = luthier.train(
            {
                "data": dict.fromkeys(["train", "validation", "test"], str(tmp_path / "rows.jsonl")), "task": {"type": "chat", "max_new_tokens": 4},
                "model": str(tmp_path / "llama"), "method": {"type": "lora", "rank": 4}, "retention": {"type": kind, **strong.get(kind, {})},
                "training": {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "threads": 1}, "evaluation": {"written": 0, "bootstrap": 100, "restore_best": False},
                "output": {"folder": str(tmp_path / "runs")},
            }
        )  # fmt: skip
        assert (run.model / "adapter_model.safetensors").is_file()
        change = run.scores["methods"]["model"]["loss"]["value"] - run.scores["methods"]["base"]["loss"]["value"]
        changes[kind] = change
        assert "general" in run.scores["probes"]
    assert changes["none"] < -0.5
    assert changes[name] > 0.8 * changes["none"]


def test_the_memory_plan_counts_what_is_remembered(sequence):
    plans = {
        name: luthier.check(
            second(sequence, {"type": name, **({"data": str(sequence["folder"] / "old.csv")} if name == "ewc" else {})})
        ).memory
        for name in ("none", "soup", "ewc")
    }
    found = {name: plan["footprint"] for name, plan in plans.items() if plan}
    size = 4 * found["none"]["trainable"]
    assert found["soup"]["kept"] - found["none"]["kept"] == pytest.approx(size, rel=0.1)
    assert found["ewc"]["kept"] - found["none"]["kept"] == pytest.approx(2 * size, rel=0.1)


def test_a_way_that_does_not_fit_is_refused_before_training(sequence):
    recipe = second(sequence, {"type": "ewc", "data": str(sequence["folder"] / "old.csv")})
    recipe["model"]["name"] = str(sequence["folder"] / "bert")
    with pytest.raises(ModelError, match=r"retention: ewc does not work here: the head starts at random"):
        luthier.check(recipe)


def losses(run: luthier.Run) -> list[float]:
    return [line["loss"] for line in run.lines("log.jsonl")]


@pytest.mark.parametrize("name", ["l2sp", "distill", "ewc"])
def test_what_is_added_does_not_hang_on_how_an_update_is_cut(sequence, name):
    options = {"type": name, **({"data": str(sequence["folder"] / "old.csv"), "rows": 20} if name == "ewc" else {})}
    still = second(sequence, {**options, "strength": 3.0}, model={"dropout": 0.0})
    whole = losses(luthier.train(still))
    cut = losses(luthier.train({**still, "training": {**still["training"], "max_tokens": 40}}))
    assert cut == pytest.approx(whole, rel=1e-4)


def test_rows_of_tables_that_a_batch_does_not_look_up_are_drawn_back_too(sequence, monkeypatch):
    """Large tables keep their gradients in buffers that are cleared row by row; a dense gradient must not stay in them."""
    from luthier.models import embedding

    changes = {"batch_size": 2, "max_steps": 40}
    recipe = second(sequence, {"type": "l2sp", "strength": 100.0}, model={"dropout": 0.0}, training=changes)
    plain = losses(luthier.train(recipe))
    monkeypatch.setattr(embedding, "MIN_ELEMENTS", 1)
    assert losses(luthier.train(recipe)) == pytest.approx(plain, rel=1e-3)
