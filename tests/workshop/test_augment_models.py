"""Rows made by models that were really trained and loaded: back-translation and paraphrases, through the cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.errors import DataError, EndpointError, RunError
from luthier.recipe import load_recipe
from luthier.workflow.dataset import dataset
from luthier.workshop.asking import engines
from tests import tiny


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    """A model that writes, and labelled rows."""
    folder: Path = tmp_path_factory.mktemp("models")
    tiny.write_moods(folder / "rows.csv", 30)
    tiny.save("llama", folder / "llama")
    return folder


@pytest.fixture(scope="module")
def translator(world) -> Path:
    """A run that translates word by word, badly; beside the rows."""
    folder = world
    rows = tiny.moods_rows(24)
    (folder / "pairs.jsonl").write_text("\n".join(json.dumps({"source": t, "target": " ".join(reversed(t.split()))}) for t, _ in rows))
    tiny.save("t5", folder / "t5")
    common = {
        "training": {"max_steps": 1, "threads": 1, "rehearsal": False}, "output": {"folder": str(folder / "runs")},
        "evaluation": {"bootstrap": 100, "baselines": [], "base_model": False, "written": 0, "general_probe": False},
    }  # fmt: skip
    run = luthier.train(
        {
            "data": {"train": str(folder / "pairs.jsonl"), "text": "source", "label": "target"},
            "task": "text2text",
            "model": str(folder / "t5"),
            **common,
        }
    )
    (folder / "translator").symlink_to(run.folder)
    return folder / "translator"


def made(world: Path, section: dict[str, Any], monkeypatch: pytest.MonkeyPatch, cache: Path) -> Any:
    monkeypatch.setenv("LUTHIER_CACHE", str(cache))
    recipe = {"data": {"train": str(world / "rows.csv"), "augment": [section]}, "model": "minilm", "training": {"threads": 1}}
    monkeypatch.chdir(world)
    return dataset(load_recipe(recipe)).prepared


@pytest.mark.slow
def test_back_translation_by_two_runs(world, translator, tmp_path, monkeypatch):
    section = {"type": "back_translation", "there": "translator", "back": "translator", "max_tokens": 6, "temperature": 1.5}
    found = made(world, section, monkeypatch, tmp_path)
    way = found.summary["augment"]["ways"][0]
    assert way["asked"] == way["made"] + sum(way["left_out"].values()) > 10
    assert found.made
    assert {m.method for m in found.made} == {"back_translation"}
    originals = {f"{r.file}:{r.line}": r for r in found.parts["train"][: -len(found.made)]}
    for record, lineage in zip(found.parts["train"][-len(found.made) :], found.made, strict=True):
        assert originals[lineage.origins[0]].target == record.target
    monkeypatch.setattr(engines.Here, "__call__", lambda self, requests: pytest.fail("asked again"))
    again = made(world, section, monkeypatch, tmp_path)
    assert again.summary["augment"] == found.summary["augment"]


def test_paraphrases_by_a_model_here(world, tmp_path, monkeypatch):
    found = made(world, {"type": "paraphrase", "model": "llama", "instruction": "again : {text}", "max_tokens": 5}, monkeypatch, tmp_path)
    way = found.summary["augment"]["ways"][0]
    assert way["asked"] == way["made"] + sum(way["left_out"].values()) > 10
    assert found.made


def test_wrong_runs_are_told(world, tmp_path, monkeypatch):
    with pytest.raises(RunError, match=r"data\.augment\[0\]\.there: llama is no run"):
        made(world, {"type": "back_translation", "there": "llama", "back": "translator"}, monkeypatch, tmp_path)
    with pytest.raises(EndpointError, match=r"data\.augment\[0\]\.model"):
        made(world, {"type": "paraphrase", "model": "./nothing"}, monkeypatch, tmp_path)
    with pytest.raises(DataError, match=r"data\.augment\[0\]\.instruction: no column 'topic'"):
        made(world, {"type": "paraphrase", "model": "llama", "instruction": "{topic} {text}"}, monkeypatch, tmp_path)


def test_a_prompt_that_is_too_long_is_no_answer(world):
    from luthier.alignment.request import Failure
    from luthier.workshop.asking.request import Reply, Request

    engine = engines.Here(engines.source_of("llama", folder=world, where="x"))
    long, short, empty = engine([Request(p, 0.0, 3, 0) for p in ("the film " * 200, "the film", "")])
    assert isinstance(long, Failure)
    assert "reads 63 at most" in str(long)
    assert isinstance(short, Reply)
    assert isinstance(empty, Failure)
