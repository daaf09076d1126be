"""Probes: scored before and after on the same rows, and a run that forgot too much says so to whoever called it."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import yaml
from click.testing import CliRunner

import luthier
from luthier.cli import main
from luthier.errors import Forgotten, LuthierError, RecipeError, RunError
from luthier.inference.fill import pseudo_figures
from luthier.models import load as loading
from luthier.models.heads import Head
from luthier.models.source import Source
from luthier.recipe.sections import Model
from luthier.workflow.probes import GENERAL_TEXT, failures
from tests import tiny
from tests.retention import world

FEW = {"bootstrap": 100, "baselines": [], "written": 0}


RARE = ("battery", "price", "screen", "story")
"""Words of the old texts, which the new ones never have."""


def texts(path: Path, count: int, *, rare: bool = False) -> Path:
    rows = [[w for w in t.split() if w not in RARE] for t, _ in tiny.moods_rows(count)]
    rows = [[RARE[(i + n) % 3] for n, _ in enumerate(words)] for i, words in enumerate(rows)] if rare else rows
    path.write_text("\n---\n".join(map(" ".join, rows)))
    return path


@pytest.fixture
def writer(tmp_path) -> dict[str, Any]:
    """A recipe that trains a tiny decoder on plain text."""
    tiny.save("llama", tmp_path / "llama")
    texts(tmp_path / "old.txt", 30, rare=True)
    return {
        "data": {"train": str(texts(tmp_path / "new.txt", 60)), "separator": "\n---\n"}, "task": {"type": "causal", "max_new_tokens": 4},
        "model": str(tmp_path / "llama"), "training": {"epochs": 4, "batch_size": 16, "learning_rate": 0.02, "threads": 1},
        "evaluation": {**FEW, "probes": {"old": str(tmp_path / "old.txt")}}, "output": {"folder": str(tmp_path / "runs"), "name": "text"},
    }  # fmt: skip


def test_a_difference_is_that_of_the_same_rows(writer):
    run = luthier.train(writer)
    found = run.scores["probes"]["old"]
    change = found["difference"]["loss"]
    assert change["value"] == pytest.approx(found["model"]["loss"]["value"] - found["base"]["loss"]["value"])
    assert change["low"] <= change["value"] <= change["high"]
    assert change["value"] > 0.05
    page = run.report.read_text()
    assert "what was forgotten" in page
    assert f"{change['value']:+.3f}" in page
    assert f"{change['low']:+.3f} to {change['high']:+.3f}" in page


def test_the_paired_interval_is_the_bootstrap_of_differences():
    from luthier.evaluation.compare import paired

    draw = np.random.default_rng(3)
    gold, a = np.zeros(40), draw.normal(size=(40, 1))
    b = a + 0.5 + 0.01 * draw.normal(size=(40, 1))

    def mean(_: Any, x: Any) -> dict[str, float]:
        return {"mean": float(x.mean())}

    value, low, high = paired(mean, gold, a, b, resamples=400, draw=np.random.default_rng(0))["mean"]
    again = np.random.default_rng(0)
    by_hand = [(b - a)[again.integers(0, 40, 40)].mean() for _ in range(400)]
    assert (value, low, high) == pytest.approx(((b - a).mean(), *np.percentile(by_hand, [2.5, 97.5])))
    assert high - low < 0.02


def test_plain_english_is_scored_where_the_model_can(writer, tmp_path):
    run = luthier.train(writer)
    found = run.scores["probes"]["general"]
    assert found["rows"] == len(GENERAL_TEXT.read_text().split("\n\n"))
    assert {"loss", "perplexity", "bits_per_byte"} <= set(found["difference"])
    assert found["metric"] == "loss"
    off = luthier.train({**writer, "evaluation": {**writer["evaluation"], "general_probe": False}})
    assert set(off.scores["probes"]) == {"old"}
    assert off.facts["weights_digest"] == run.facts["weights_digest"]


def test_a_new_model_has_no_before(writer):
    del writer["model"]
    writer["model"] = {
        "from_scratch": {"architecture": "llama", "vocabulary": 300, "hidden_size": 16, "layers": 1, "heads": 2, "context": 32}
    }
    run = luthier.train(writer)
    assert set(run.scores["probes"]) == {"old"}
    assert "difference" not in run.scores["probes"]["old"]
    writer["evaluation"]["fail_if"] = {"old": "rise > 1"}
    with pytest.raises(RecipeError, match="a new model has no scores from before"):
        luthier.train(writer)


@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta"])
def test_a_classifier_is_read_through_the_fill_in_head_of_its_files(recipe, tmp_path, family):
    torch.manual_seed(0)
    config = tiny.config(family, initializer_range=0.2)
    hf.AutoModelForMaskedLM.from_config(config).save_pretrained(tmp_path / "filler")
    tiny.tokenizer(family).save_pretrained(tmp_path / "filler")
    recipe["model"] = {"name": str(tmp_path / "filler")}
    recipe["evaluation"]["general_probe"] = True
    run = luthier.train(recipe)
    found = run.scores["probes"]["general"]
    folder = str(tmp_path / "filler")
    loaded = loading.load(Source(folder, folder, None), Model(name=folder), head=lambda _: Head("masked"))
    paragraphs = [t.strip() for t in GENERAL_TEXT.read_text().split("\n\n")][::2]
    nats, tokens = pseudo_figures(loaded, paragraphs, max_tokens=4096).sum(axis=0)
    assert found["base"]["loss"]["value"] == pytest.approx(nats / tokens, rel=1e-4)
    assert found["base"]["pseudo_perplexity"]["value"] == pytest.approx(math.exp(nats / tokens), rel=1e-3)
    assert found["model"]["loss"]["value"] != found["base"]["loss"]["value"]
    again = luthier.train({**recipe, "evaluation": {**recipe["evaluation"], "general_probe": False}})
    assert again.facts["weights_digest"] == run.facts["weights_digest"]


def test_without_such_a_head_it_is_left_out_with_a_note(recipe):
    run = luthier.train(recipe)
    assert run.scores["probes"] == {}
    assert any("no general probe: the model's files bring no fill-in head" in n for n in run.facts["notes"])
    recipe["evaluation"]["general_probe"] = True
    with pytest.raises(LuthierError, match=r"evaluation\.general_probe: plain text cannot be scored"):
        luthier.train(recipe)


def say(*words: str) -> tuple[int, str]:
    """The real command line: its exit code, and all that it printed."""
    runner = CliRunner()

    def called() -> None:
        main.main()

    import click

    @click.command(context_settings={"ignore_unknown_options": True})
    @click.argument("rest", nargs=-1)
    def wrapped(rest: tuple[str, ...]) -> None:
        import sys

        before, sys.argv = sys.argv, ["luthier", *words]
        try:
            called()
        finally:
            sys.argv = before

    done = runner.invoke(wrapped, [])
    return done.exit_code, done.output


def test_a_run_that_forgot_too_much_is_saved_but_not_good(writer, tmp_path):
    path = tmp_path / "text.yaml"
    writer["evaluation"]["fail_if"] = {"old": "rise > 0.01", "general": "drop > 50"}
    path.write_text(yaml.safe_dump(writer))
    code, output = say("train", str(path))
    assert code == 1, output
    run = luthier.find("text-1", root=tmp_path / "runs")
    found = run.scores["probes"]["old"]
    assert "evaluation.fail_if: the run is saved, but not good: probe old: loss went from" in " ".join(output.split())
    assert f"worse by {found['difference']['loss']['value']:.4f} (rise > 0.01)" in " ".join(output.split())
    assert "probe general" not in output
    assert run.facts["status"] == "done"
    assert run.facts["good"] is False
    assert not run.good
    assert [f["probe"] for f in run.facts["failed"]] == ["old"]
    assert (run.model / "model.safetensors").is_file()
    assert "not marked good" in run.report.read_text()
    code, listed = say("runs", "--runs", str(tmp_path / "runs"))
    assert code == 0
    assert "not good" in listed
    assert say("resume", str(run.folder))[0] == 1
    with pytest.raises(Forgotten):
        run.refuse_forgotten()
    assert luthier.train(writer).good is False


def test_a_run_that_keeps_its_limits_is_good(writer, tmp_path):
    path = tmp_path / "text.yaml"
    writer["evaluation"]["fail_if"] = {"general": "rise > 50"}
    path.write_text(yaml.safe_dump(writer))
    code, output = say("train", str(path))
    assert code == 0, output
    assert luthier.find("text-1", root=tmp_path / "runs").good
    assert "done" in say("runs", "--runs", str(tmp_path / "runs"))[1]


def probe(metric: str, before: float, after: float) -> dict[str, Any]:
    return {
        "metric": metric, "base": {metric: {"value": before}}, "model": {metric: {"value": after}}, "difference": {metric: {"value": after - before}},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("metric", "before", "after", "text", "fails"),
    [
        ("accuracy", 0.9, 0.87, "drop > 0.02", True),
        ("accuracy", 0.9, 0.89, "drop > 0.02", False),
        ("accuracy", 0.8, 0.9, "drop > 0.02", False),
        ("loss", 1.0, 1.5, "drop > 0.2", True),
        ("loss", 1.0, 1.5, "rise > 0.2", True),
        ("loss", 1.5, 1.0, "drop > 0.2", False),
        ("loss", 1.0, float("nan"), "rise > 0.2", True),
    ],
)
def test_limits_are_on_changes_for_the_worse(metric, before, after, text, fails):
    assert bool(failures({"p": text}, {"p": probe(metric, before, after)})) is fails


def test_limits_that_cannot_be_broken_are_refused_before_training(recipe, tmp_path):
    recipe["evaluation"] |= {"probes": {"same": recipe["data"]["train"]}, "fail_if": {"same": "rise > 0.1"}}
    with pytest.raises(RecipeError, match=r"evaluation\.fail_if\.same: accuracy is better when high"):
        luthier.check(recipe)
    recipe["evaluation"]["fail_if"] = {"earlier:nobody-1": "drop > 0.1"}
    with pytest.raises(RecipeError, match="there is no probe 'earlier:nobody-1' in this run"):
        luthier.check(recipe)


# ── lineage ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def first(recipe) -> luthier.Run:
    recipe["training"]["epochs"] = 3
    return luthier.train(recipe)


def after(recipe: dict[str, Any], first: luthier.Run, path: Path, **changes: Any) -> tuple[luthier.Run, list[str]]:
    later = {**recipe, "data": {"train": str(path)}, "model": str(first.folder)}
    for section, values in changes.items():
        later[section] = {**later.get(section, {}), **values}
    run = luthier.train(later)
    return run, [n for n in run.facts["notes"] if "earlier run" in n]


def test_the_run_that_training_starts_from_is_a_probe(recipe, first, tmp_path):
    new = world.write(tmp_path / "new.csv", tiny.moods_rows(60, seed=9))
    run, notes = after(recipe, first, new)
    assert not notes
    found = run.scores["probes"][f"earlier:{first.id}"]
    assert found["metric"] == "accuracy"
    assert found["rows"] == first.scores["test_rows"]
    assert found["base"]["accuracy"]["value"] == first.scores["methods"]["model"]["accuracy"]["value"]
    assert run.facts["parent"] == first.id
    assert run.facts["model"] == str(first.model)
    named = {**recipe, "data": {"train": str(new)}, "model": str(first.model)}
    assert luthier.train(named).facts["parent"] == first.id
    none, notes = after(recipe, first, new, evaluation={"earlier_probe": False})
    assert none.scores["probes"] == {}
    assert not notes


def test_rows_that_are_trained_on_now_are_no_probe(recipe, first, tmp_path, moods):
    held = {r["key"] for r in first.lines("predictions/test.jsonl")}
    rows = tiny.moods_rows(120)
    shared = [r for r in rows if r[0] in {line["text"] for line in first.lines("predictions/test.jsonl")}][:5]
    only = world.write(tmp_path / "train.csv", [*tiny.moods_rows(60, seed=9), *shared])
    other = world.write(tmp_path / "held.csv", tiny.moods_rows(30, seed=11))
    later = {**recipe, "data": {"train": str(only), "validation": str(other), "test": str(other)}, "model": str(first.folder)}
    run = luthier.train(later)
    assert run.scores["probes"][f"earlier:{first.id}"]["rows"] == len(held) - len(shared)


def test_why_an_earlier_run_is_no_probe(recipe, first, tmp_path, moods):
    new = world.write(tmp_path / "new.csv", tiny.moods_rows(60, seed=9))
    _, notes = after(recipe, first, Path(recipe["data"]["train"]))
    assert "its test rows are this run's own" in notes[0]
    _, notes = after(recipe, first, world.write(tmp_path / "two.csv", [r for r in tiny.moods_rows(90, seed=9) if r[1] != "neutral"]))
    assert "it has other labels" in notes[0]
    numbers = world.write(tmp_path / "numbers.csv", [(t, str(len(t) / 10)) for t, _ in tiny.moods_rows(60, seed=9)])
    _, notes = after(recipe, first, numbers, task={"kind": "regression"})
    assert "it learned classification/single_label, and this one learns classification/regression" in notes[0]
    moods.write_text(moods.read_text() + "the film was great,positive\n")
    run, notes = after(recipe, first, new)
    assert "has changed since the run began" in notes[0]
    assert run.scores["probes"] == {}


def test_a_run_without_a_model_is_no_start(recipe, tmp_path):
    folder = tmp_path / "broken-1"
    folder.mkdir()
    (folder / "run.json").write_text(json.dumps({"status": "failed"}))
    with pytest.raises(RunError, match="has no model yet"):
        luthier.train({**recipe, "model": str(folder)})


def test_continue_names_its_parent_and_needs_no_probe(first):
    run = luthier.continue_run(first, epochs=1)
    assert run.facts["parent"] == first.id
    assert any("its test rows are this run's own" in n for n in run.facts["notes"])
