"""`data.mend`: the training part alone is mended, every mended row is told, and what stands on it uses the new label."""

from __future__ import annotations

import csv
import json
import random

import numpy as np
import pytest

import luthier
from luthier.errors import DataError, RecipeError, RunError
from luthier.recipe import load_recipe
from luthier.workflow.check import check
from luthier.workflow.dataset import dataset
from luthier.workshop import embed
from luthier.workshop.quality import mistaken
from tests import tiny

MOODS = sorted(tiny.MOOD_WORDS)


def write(path, rows):
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label"], *rows])
    return str(path)


@pytest.fixture
def flawed(tmp_path, tiny_model, monkeypatch):
    """A recipe of 300 rows, 30 of them with a wrong label; vectors say which words stand in a text. And the texts with wrong labels."""
    monkeypatch.chdir(tmp_path)

    def vectors(texts, *, model):
        found = np.array([[w in t.split() for w in tiny.WORDS] for t in texts], np.float32) + 1e-3
        return embed.Embedded(found / np.linalg.norm(found, axis=1, keepdims=True), len(texts))

    monkeypatch.setattr(mistaken, "embed", vectors)
    rows = tiny.moods_rows(300)
    wrong = random.Random(1).sample(range(300), 30)
    labels = {i: MOODS[(MOODS.index(rows[i][1]) + 1) % 3] for i in wrong}
    path = write(tmp_path / "rows.csv", [(t, labels.get(i, label)) for i, (t, label) in enumerate(rows)])
    recipe = {
        "data": {"train": path, "mend": {"type": "drop", "at_least": 0.5}},
        "model": {"name": str(tiny_model)}, "training": {"epochs": 1, "batch_size": 16, "threads": 1, "rehearsal": False},
        "evaluation": {"bootstrap": 100, "baselines": [], "base_model": False, "general_probe": False}, "output": {"folder": "runs", "name": "mended"},
    }  # fmt: skip
    return recipe, {rows[i][0]: rows[i][1] for i in wrong}


def parts(recipe, **data):
    return dataset(load_recipe({**recipe, "data": {**recipe["data"], **data}})).prepared


@pytest.mark.parametrize("way", ["drop", "relabel"])
def test_the_training_part_alone_is_mended(flawed, way):
    recipe, wrong = flawed
    plain, found = parts(recipe, mend=None), parts(recipe, mend={"type": way, "at_least": 0.5})
    for part in ("validation", "test"):
        assert found.parts[part] == plain.parts[part]
    by_place = {(r.file, r.line): r for r in plain.parts["train"]}
    planted = sum(r.text in wrong for r in plain.parts["train"])
    told = [by_place[f.file, f.line] for f in found.mended]
    assert len(told) == found.summary["rows_mended"] == len({(r.file, r.line) for r in told})
    assert sum(r.text in wrong for r in told) >= 0.8 * max(planted, len(told))
    kept = {(r.file, r.line): r for r in found.parts["train"]}
    assert len(kept) + found.summary["rows_dropped_by_mending"] == plain.summary["train"]
    assert found.summary["train"] == len(kept)
    mended = {(f.file, f.line) for f in found.mended}
    if way == "drop":
        assert kept == {place: r for place, r in by_place.items() if place not in mended}
        assert {f.outcome for f in found.mended} == {"dropped"}
    else:
        assert {place for place in by_place if kept[place] != by_place[place]} == mended
        right = [MOODS[kept[r.file, r.line].target] == wrong[r.text] for r in told if r.text in wrong]
        assert np.mean(right) > 0.9
        assert all(" → " in f.reason and f.outcome == "changed" for f in found.mended)


def test_a_bare_way_may_be_added_to():
    found = load_recipe({"data": {"train": "x.csv", "mend": "drop"}}, overrides=["data.mend.at_least=0.7"]).recipe.data.mend
    assert (found.type, found.at_least) == ("drop", 0.7)


def test_fewer_are_mended_where_more_certainty_is_asked_for(flawed):
    recipe, _ = flawed
    all_of_them, sure = (parts(recipe, mend={"type": "drop", "at_least": p}).mended for p in (0.5, 0.97))
    assert 0 < len(sure) < len(all_of_them)
    assert set(sure) < set(all_of_them)


def test_made_rows_have_the_label_that_their_row_was_given(flawed):
    recipe, _ = flawed
    found = parts(recipe, mend={"type": "relabel", "at_least": 0.5}, augment=[{"type": "noise", "share": 3.0, "rate": 0.3}])
    targets = {f"{r.file}:{r.line}": r.target for r in found.parts["train"][: -len(found.made)]}
    mended = {f"{f.file}:{f.line}" for f in found.mended}
    pairs = [(r.target, targets[m.origins[0]]) for r, m in zip(found.parts["train"][-len(found.made) :], found.made, strict=True)]
    assert all(a == b for a, b in pairs)
    assert sum(m.origins[0] in mended for m in found.made) > 10


def test_the_run_records_what_was_mended_and_refuses_other_rows(flawed):
    recipe, _ = flawed
    run = luthier.train(recipe)
    lines = run.lines("mended.jsonl")
    assert len(lines) == run.facts["data"]["summary"]["rows_mended"] > 15
    assert {line["stage"] for line in lines} == {"mend"}
    assert "each is in mended.jsonl" in (run.folder / "report.html").read_text()
    facts = json.loads((run.folder / "run.json").read_text())
    facts["status"], facts["data"]["summary"]["mend"]["digest"] = "interrupted", "another"
    (run.folder / "run.json").write_text(json.dumps(facts))
    with pytest.raises(RunError, match=r"data\.mend mends are not those that it began with"):
        luthier.resume(run)


def test_rows_of_an_earlier_run_stay_as_they_were_learned(flawed, tmp_path):
    recipe, _ = flawed
    run = luthier.train({**recipe, "data": {**recipe["data"], "mend": None}})
    new = write(tmp_path / "new.csv", tiny.moods_rows(90, seed=7))
    section = {"train": new, "earlier": str(run.folder), "mend": "drop"}
    found = dataset(load_recipe({**recipe, "data": section, "curriculum": {"type": "replay"}}))
    assert {f.file for f in found.prepared.mended} <= {new}
    replayed = found.earlier.replayed
    kept = {id(r) for r in found.prepared.parts["train"]}
    assert replayed
    assert all(id(r) in kept for r in replayed)
    assert found.prepared.summary["mend"]["judged"] == found.prepared.summary["train"] + found.prepared.summary["rows_dropped_by_mending"]


def test_too_few_new_rows_are_told_of_where_a_run_goes_on(flawed, tmp_path):
    recipe, _ = flawed
    run = luthier.train({**recipe, "data": {**recipe["data"], "mend": None}})
    new = write(tmp_path / "new.csv", tiny.moods_rows(4, seed=7))
    section = {"train": new, "earlier": str(run.folder), "mend": "drop"}
    found = dataset(load_recipe({**recipe, "data": section})).prepared
    assert found.summary["rows_mended"] == 0
    assert any("cannot be judged: none is mended" in note for note in found.notes)


def test_a_class_of_copies_is_not_judged_and_stays(flawed, tmp_path):
    """No other row speaks for it, since copies never vouch for each other."""
    recipe, _ = flawed
    rows = [*tiny.moods_rows(150), *[("please cancel this order", "cancel")] * 20]
    found = parts(recipe, train=write(tmp_path / "copies.csv", rows))
    named = [m.reason for m in found.mended if "please cancel" in m.reason or "given cancel" in m.reason]
    assert not named
    assert any("classes with fewer than 5 different texts" in note for note in found.notes)


def test_labels_of_which_texts_say_nothing_are_not_judged(flawed, tmp_path):
    recipe, _ = flawed
    draw = random.Random(5)
    rows = [(text, draw.choice(MOODS)) for text, _ in tiny.moods_rows(300)]
    found = parts(recipe, train=write(tmp_path / "noise.csv", rows))
    assert found.mended == []
    assert any("no better than chance" in note for note in found.notes)


def test_the_model_is_looked_for_beside_the_recipe(flawed, monkeypatch, tmp_path):
    recipe, _ = flawed
    asked = []
    real = mistaken.embed
    monkeypatch.setattr(mistaken, "embed", lambda texts, *, model: asked.append(model) or real(texts, model=model))
    (tmp_path / "enc").mkdir()
    parts(recipe, mend={"type": "drop", "model": "enc"})
    parts(recipe, mend={"type": "drop", "model": "minilm"})
    assert asked == [tmp_path / "enc", "minilm"]


def test_several_tasks_are_mended_each_on_its_own(flawed, tmp_path):
    recipe, _ = flawed
    other = {"data": {"train": write(tmp_path / "other.csv", tiny.moods_rows(60, seed=3))}, "type": "classification"}
    tasks = {"a": {"data": recipe["data"], "type": "classification"}, "b": other}
    several = {**recipe, "data": {"train": "x"}, "task": {"type": "multitask", "tasks": tasks}}
    unasked = check(several, with_model=False)
    assert "a: labels are mended when a model may be loaded" in unasked.notes
    assert "rows_mended" not in unasked.summary
    found = dataset(load_recipe(several)).prepared
    assert len(found.mended) == found.summary["rows_mended"] == found.summary["rows_dropped_by_mending"] > 15


@pytest.mark.parametrize(
    ("task", "kind", "says"),
    [({"type": "causal"}, RecipeError, "no label that could be judged"), ({"kind": "multi_label"}, RecipeError, r"\(multi_label\)")],
)
def test_rows_without_one_label_are_refused(flawed, task, kind, says):
    recipe, _ = flawed
    for model in (False, True):
        with pytest.raises(kind, match=says) as caught:
            check({**recipe, "task": {"type": "classification", **task}}, with_model=model)
        assert caught.value.faults[0].where == "data.mend"


def test_too_few_rows_to_judge_are_refused_by_name(flawed, tmp_path):
    recipe, _ = flawed
    few = write(tmp_path / "few.csv", tiny.moods_rows(15))
    with pytest.raises(DataError, match=r"data\.mend: fewer than two labels have 5 different texts"):
        parts(recipe, train=few)


def test_a_check_without_models_says_that_it_did_not_mend(flawed):
    recipe, _ = flawed
    found = check(recipe, with_model=False)
    assert "labels are mended when a model may be loaded" in found.notes
    assert "rows_mended" not in found.summary
