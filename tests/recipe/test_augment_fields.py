"""Every field of every way to make rows takes effect: the schemas are walked, none may be missing."""

from __future__ import annotations

import functools
import json
import random
from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.data.augment.augmenter import Source
from luthier.data.augment.grow import grow
from luthier.data.rows import Row
from luthier.errors import RecipeError, RunError
from luthier.recipe import load_recipe
from luthier.recipe.augment.options import AugmentOptions
from luthier.recipe.sections import Data
from luthier.registry import AUGMENT_OPTIONS, AUGMENTERS
from luthier.workflow.check import check
from luthier.workflow.dataset import dataset
from luthier.workflow.similar import Embedder
from tests import tiny
from tests.alignment.world import judge, said

SHARED = set(AugmentOptions.model_fields)
BASES: dict[str, dict[str, Any]] = {
    "lexicon": {"file": "words.txt", "rate": 1.0}, "neighbours": {"model": "bert", "rate": 0.5, "min_similarity": 0.1, "min_text_similarity": -1.0},
    "back_translation": {"there": "en-de", "back": "de-en"}, "paraphrase": {"model": "writer"}, "mixing": {"how": "sentences"},
}  # fmt: skip
CASES: dict[tuple[str, str], Any] = {
    ("noise", "share"): 2.0, ("noise", "classes"): ["positive"], ("noise", "check"): "positive",
    ("noise", "rate"): 0.3, ("noise", "kinds"): ["double"], ("words", "rate"): 0.4, ("words", "kinds"): ["delete"],
    ("lexicon", "file"): "others.txt", ("lexicon", "rate"): 0.1, ("mixing", "how"): "join", ("mixing", "separator"): " / ",
    ("neighbours", "model"): "distilbert", ("neighbours", "rate"): 0.1, ("neighbours", "among"): 1, ("neighbours", "min_similarity"): 0.5,
    ("neighbours", "min_text_similarity"): 1.0, ("back_translation", "there"): "en-fr", ("back_translation", "back"): "fr-en",
    ("back_translation", "temperature"): 0.1, ("back_translation", "max_tokens"): 3, ("paraphrase", "model"): "other",
    ("paraphrase", "endpoint"): {"url": "{url}", "model": "m"}, ("paraphrase", "instruction"): "Shorter: {text}", ("paraphrase", "temperature"): 0.1,
    ("paraphrase", "max_tokens"): 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder: Path = tmp_path_factory.mktemp("augment")
    tiny.save("bert", folder / "bert")
    tiny.save("distilbert", folder / "distilbert")
    (folder / "words.txt").write_text("film, movie\nmeal, dinner\nwas, has been\n")
    (folder / "others.txt").write_text("room, chamber\nbook, volume\nwas, had been\n")
    return folder


class Echo:
    """Stands in for models that write: what it says tells who was asked what."""

    batch, concurrency, retries, backoff = 4, 1, 0, 0.0

    def __init__(self, name: str) -> None:
        self.identity = name

    def __call__(self, requests: list[Any]) -> list[Any]:
        from luthier.workshop.asking.request import Reply

        return [Reply(f"{self.identity} {r.temperature} {r.seed} {r.prompt}"[: 100 + r.max_tokens], 1) for r in requests]


@functools.cache
def embedder(source: Any) -> Any:
    """Each model is loaded once."""
    return Embedder(source)


@pytest.fixture
def offline(monkeypatch, tmp_path):
    from luthier.workflow import similar
    from luthier.workshop.augment import back_translation, paraphrase

    monkeypatch.setattr(similar, "Embedder", embedder)
    for module in (back_translation, paraphrase):
        monkeypatch.setattr(module, "Here", Echo)
        monkeypatch.setattr(module, "source_of", lambda name, **_: name)
    monkeypatch.setattr(back_translation, "_translator", lambda name, *_: name)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def observe(section: dict[str, Any], world: Path) -> Any:
    rows = [(f"{t}. {' '.join(reversed(t.split()))}", label) for t, label in tiny.moods_rows(12)]
    pool = [Source(t, label, Row({"text": t, "label": label}, "x.csv", i)) for i, (t, label) in enumerate(rows)]

    def check(run: str, where: str) -> Any:
        return lambda made: [run] * len(made)

    found = grow(
        pool, Data(train=["x"], augment=[section]).augment, text="text", held=(), fault=lambda r: None, check=check, seed=0, folder=world
    )
    return [m.lineage() for m in found.made], [w.figures() for w in found.ways]


def test_no_field_is_missing():
    assert AUGMENT_OPTIONS.names() == AUGMENTERS.names()
    own = {(kind, f) for kind in AUGMENT_OPTIONS.names() for f in set(AUGMENT_OPTIONS.load(kind).model_fields) - SHARED}
    assert own | {("noise", f) for f in SHARED - {"type"}} == set(CASES)


def unchanged(kind: str, world: Path, seen: dict[str, Any] = {}) -> Any:  # noqa: B006  (kept between the tests)
    if kind not in seen:
        seen[kind] = observe({"type": kind, **BASES.get(kind, {})}, world)
    return seen[kind]


@pytest.mark.parametrize("kind", AUGMENT_OPTIONS.names())
def test_nothing_changes_by_itself(kind, world, offline):
    """Else the test below could not fail."""
    assert observe({"type": kind, **BASES.get(kind, {})}, world) == unchanged(kind, world)


@pytest.mark.parametrize(("kind", "field"), CASES)
def test_every_field_takes_effect(kind, field, world, offline):
    before = unchanged(kind, world)
    assert before[0]
    changed = {"type": kind, **BASES.get(kind, {}), field: CASES[kind, field]}
    if field == "endpoint":
        with judge(lambda n, b, h: said(f"an answer {n} {random.random()}")) as server:
            after = observe({**changed, "model": None, "endpoint": {"url": server.url, "model": "m"}}, world)
    else:
        after = observe(changed, world)
    assert before != after


@pytest.fixture
def grown(tmp_path, tiny_model, monkeypatch):
    """A recipe whose training part is grown."""
    monkeypatch.chdir(tmp_path)
    tiny.write_moods(tmp_path / "rows.csv", 60)
    return {
        "data": {"train": str(tmp_path / "rows.csv"), "augment": [{"type": "noise", "rate": 0.3}, {"type": "mixing", "share": 0.5}]},
        "model": {"name": str(tiny_model)}, "training": {"epochs": 2, "batch_size": 16, "threads": 1, "rehearsal": False},
        "evaluation": {"bootstrap": 100, "baselines": [], "base_model": False, "general_probe": False}, "output": {"folder": "runs", "name": "grown"},
    }  # fmt: skip


def test_the_training_part_alone_is_grown(grown):
    plain = dataset(load_recipe({**grown, "data": {"train": grown["data"]["train"]}})).prepared
    found = dataset(load_recipe(grown)).prepared
    made = len(found.made)
    assert made > 30
    for part in ("validation", "test"):
        assert found.parts[part] == plain.parts[part]
    assert found.parts["train"][:-made] == plain.parts["train"]
    held = {r.key for part in ("validation", "test") for r in found.parts[part]}
    assert not held & {r.key for r in found.parts["train"][-made:]}
    by_place = {f"{r.file}:{r.line}": r for r in plain.parts["train"]}
    for record, lineage in zip(found.parts["train"][-made:], found.made, strict=True):
        assert record.text == lineage.text
        assert {by_place[o].target for o in lineage.origins} == {record.target}
    summary = found.summary
    assert summary["train"] == len(found.parts["train"]) == plain.summary["train"] + summary["rows_made"]
    assert summary["augment"]["share"] == round(made / summary["train"], 4)


def test_the_run_records_what_was_made_and_refuses_other_rows(grown, tmp_path):
    run = luthier.train(grown)
    lines = run.lines("made.jsonl")
    assert len(lines) == run.facts["data"]["summary"]["rows_made"]
    assert {line["method"] for line in lines} == {"noise", "mixing"}
    assert "made.jsonl" in (run.folder / "report.html").read_text()
    facts = json.loads((run.folder / "run.json").read_text())
    facts["status"], facts["data"]["summary"]["augment"]["digest"] = "interrupted", "another"
    (run.folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match="not those that it began with"):
        luthier.resume(run)


def test_a_classifier_confirms_and_few_shot_and_pairs_of_texts_grow(grown):
    run = luthier.train(grown)
    checked = {**grown, "data": {**grown["data"], "augment": [{"type": "mixing", "check": str(run.folder)}]}}
    summary = dataset(load_recipe(checked)).prepared.summary
    way = summary["augment"]["ways"][0]
    assert way["made"] + sum(way["left_out"].values()) == way["asked"]
    with pytest.raises(RunError, match=r"data\.augment\[0\]\.check"):
        dataset(load_recipe({**grown, "data": {**grown["data"], "augment": [{"type": "noise", "check": "nothing"}]}}))
    few = dataset(load_recipe({**grown, "task": {"type": "few_shot"}}))
    assert few.prepared.summary["rows_made"]


def test_new_data_alone_is_varied_and_what_the_earlier_run_holds_back_is_not_made(grown, tmp_path):
    run = luthier.train({**grown, "data": {"train": grown["data"]["train"]}})
    tiny.write_moods(tmp_path / "new.csv", 40, seed=7)
    section = {"train": str(tmp_path / "new.csv"), "earlier": str(run.folder), "augment": [{"type": "noise", "rate": 0.3}]}
    replayed = {**grown, "data": section, "curriculum": {"type": "replay"}}
    found = dataset(load_recipe(replayed))
    made = found.prepared.made
    assert made
    assert {o.rpartition(":")[0] for m in made for o in m.origins} == {str(tmp_path / "new.csv")}
    held = {r.key for part in ("validation", "test") for r in found.prepared.parts[part]}
    assert not held & {r.key for r in found.prepared.parts["train"]}
    streams = found.streams(range(len(found.prepared.parts["train"])))
    assert set(streams[-len(made) :]) == {"new"}


def test_each_of_several_tasks_has_its_own_ways(grown, tmp_path):
    own = {"data": {"train": grown["data"]["train"], "augment": ["noise"]}, "type": "classification"}
    tiny.write_moods(tmp_path / "other.csv", 40, seed=3)
    other = {"data": {"train": str(tmp_path / "other.csv")}, "type": "classification"}
    recipe = {k: v for k, v in grown.items() if k != "data"} | {
        "data": {"train": "x"},
        "task": {"type": "multitask", "tasks": {"a": own, "b": other}},
    }
    found = dataset(load_recipe(recipe)).prepared
    assert len(found.made) == found.summary["rows_made"] == found.summary["tasks"]["a"]["rows_made"] > 10
    assert "rows_made" not in found.summary["tasks"]["b"]


def test_what_cannot_be_varied_is_refused(grown):
    with pytest.raises(RecipeError, match=r"data\.augment\[1\]\.type: needs labels"):
        check({**grown, "task": {"type": "text2text"}}, with_model=False)
    with pytest.raises(RecipeError, match="rows of the task masked cannot be varied"):
        check({**grown, "task": {"type": "masked"}}, with_model=False)


def test_a_check_without_models_leaves_their_rows_out(grown):
    section = {**grown["data"], "augment": ["noise", {"type": "neighbours", "model": "nowhere"}]}
    found = check({**grown, "data": section}, with_model=False)
    assert "rows of neighbours are made when a model may be loaded" in found.notes
    assert found.summary["augment"]["ways"][0]["method"] == "noise"
