"""A run that goes on with new data: the head keeps what it knows, old rows come back, and nothing tested on is trained on."""

from __future__ import annotations

import copy
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

import luthier
from luthier.errors import DataError, Interrupted, LuthierError, RecipeError, RunError
from luthier.recipe import load_recipe
from luthier.workflow.build import Job, build
from luthier.workflow.dataset import LEARNED, NEW, Dataset, dataset
from luthier.workflow.lineage import recipe_of
from luthier.workflow.onward import onward
from tests import tiny
from tests.retention.world import write
from tests.terminal import luthier as command
from tests.workflow.test_resume import endings, newest_run, stopping_at

OLD = ("negative", "positive")


def moods(count: int, *labels: str, seed: int = 0) -> list[tuple[str, str]]:
    """The first rows of these labels."""
    return [r for r in tiny.moods_rows(6 * count, seed=seed) if r[1] in labels][:count]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("continual")


@pytest.fixture(scope="module")
def new(folder) -> Path:
    return write(folder / "new.csv", moods(40, "neutral", seed=1))


@pytest.fixture(scope="module")
def base(folder, tiny_model) -> dict[str, Any]:
    return {
        "data": {"train": str(write(folder / "old.csv", moods(80, *OLD)))},
        "model": {"name": str(tiny_model)},
        "training": {"epochs": 2, "batch_size": 16, "learning_rate": 3e-3, "threads": 1, "rehearsal": False},
        "evaluation": {"bootstrap": 100, "baselines": []},
        "output": {"folder": str(folder / "runs"), "name": "first"},
    }  # fmt: skip


RUNS: dict[str, luthier.Run] = {}


def run_of(base: dict[str, Any], **changes: Any) -> luthier.Run:
    """A finished run of the two old classes; each kind is trained once."""
    key = json.dumps(changes, sort_keys=True)
    if key not in RUNS:
        recipe = copy.deepcopy(base)
        for section, value in changes.items():
            recipe[section] = {**recipe.get(section, {}), **value} if isinstance(value, dict) else value
        RUNS[key] = luthier.train(recipe)
    return RUNS[key]


@pytest.fixture(scope="module")
def first(base) -> luthier.Run:
    return run_of(base)


def job_of(run: luthier.Run, data: Path, **options: Any) -> Job:
    """The run that goes on, before its first update."""
    return build(onward(run, data=data, epochs=2, **options))


def data_of(run: luthier.Run, data: Path, **options: Any) -> Dataset:
    return dataset(onward(run, data=data, epochs=2, **options))


def keys(data: Dataset, part: str) -> set[str]:
    return {r.key for r in data.prepared.parts[part]}  # type: ignore[index]


# ── the head ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("head", ["linear", "mlp"])
@pytest.mark.parametrize("method", ["full", "lora", "freeze"])
def test_old_rows_of_the_head_are_bit_identical_at_step_0(method, head, base, new):
    run = run_of(base, method={"type": method}, model={"head": head})
    job = job_of(run, new)
    assert job.task.labels == (*OLD, "neutral")
    saved: dict[str, torch.Tensor] = {}
    for file in run.model.glob("*.safetensors"):
        saved |= load_file(file)
    mark = "4." if head == "mlp" else "classifier."
    old = {n.rpartition(".")[2]: t for n, t in saved.items() if mark in n}
    assert set(old) == {"weight", "bias"}
    now = {n: p for n, p in job.loaded.model.named_parameters() if (f"head.{mark}" if head == "mlp" else "classifier") in n}
    own = {n: p for n, p in now.items() if "original_module" not in n}
    assert len(own) == 2
    for name, parameter in own.items():
        assert torch.equal(parameter[:2], old[name.rpartition(".")[2]])
        assert parameter.shape[0] == 3
        assert parameter.requires_grad
    assert any("keeps its rows for 2 labels, begins afresh for 1: 'neutral'" in note for note in job.notes)


def test_step_0_answers_old_rows_as_the_earlier_run_did(first, new):
    """Among the old labels: what stands in the new row cannot change their logits, only be above them."""
    from luthier.inference.predict import outputs

    before = load_file(first.folder / "predictions" / "test.safetensors")["outputs"]
    job = job_of(first, new)
    assert job.data.earlier is not None
    tested = {id(r) for r in job.data.earlier.tested}
    layout = job.loaded.layout
    answers = outputs(job.loaded.model, job.tokens["test"], layout, answer=job.task.answer(layout), max_tokens=4096)
    mine = [torch.from_numpy(line) for r, line in zip(job.data.prepared.parts["test"], answers, strict=True) if id(r) in tested]
    assert torch.allclose(torch.stack(mine)[:, :2], before, atol=1e-5)


def test_an_adapter_run_goes_on_and_is_saved_whole(base, new):
    run = luthier.continue_run(run_of(base, method={"type": "lora"}, model={"head": "linear"}), data=new, epochs=1)
    assert (run.model / "adapter_config.json").is_file()
    assert {p["label"] for p in luthier.predict(run, ["the film was plain", "it was awful"])} <= {*OLD, "neutral"}
    again = luthier.continue_run(run, epochs=1)
    start, end = again.scores["methods"]["base"], run.scores["methods"]["model"]
    assert start["accuracy"]["value"] == end["accuracy"]["value"]
    assert start["loss"]["value"] == pytest.approx(end["loss"]["value"], abs=1e-5)


def test_labels_of_several_kinds_start_where_the_rows_say(base, folder, tmp_path):
    """Multi-label: old biases stay, a new one begins at its log-odds in what is trained on."""
    rows = [(t, label + ("|odd" if i % 2 else "")) for i, (t, label) in enumerate(moods(80, *OLD))]
    run = run_of(base, data={"train": str(write(folder / "several.csv", rows)), "label_separator": "|"})
    more = write(tmp_path / "more.csv", [(t, "plain|odd") for t, _ in moods(30, "neutral")])
    job = job_of(run, more)
    assert job.task.labels == ("negative", "odd", "positive", "plain")
    bias = job.loaded.model.classifier.bias
    assert torch.equal(bias[:3], load_file(run.model / "model.safetensors")["classifier.bias"])
    train = job.data.prepared.parts["train"]
    share = (sum(3 in r.target for r in train) + 0.5) / (len(train) + 1)
    assert float(bias[3].detach()) == pytest.approx(math.log(share / (1 - share)), abs=1e-6)


def tagged(path: Path, count: int, *kinds: str) -> Path:
    texts = [t.split() for t, _ in tiny.moods_rows(count, seed=len(kinds))]
    rows = [{"words": w, "tags": [f"{'I' if j else 'B'}-{kinds[i % len(kinds)]}" for j in range(len(w))]} for i, w in enumerate(texts)]
    path.write_text("\n".join(map(json.dumps, rows)))
    return path


def test_new_types_of_entities_extend_the_head_of_a_tagger(base, folder, tmp_path):
    run = run_of(base, data={"train": str(tagged(folder / "tags.jsonl", 60, "A", "C"))}, task={"type": "tagging"})
    job = job_of(run, tagged(tmp_path / "new.jsonl", 30, "B", "A", "D"))
    assert job.task.labels == ("O", "B-A", "I-A", "B-C", "I-C", "B-B", "I-B", "B-D", "I-D")
    old, now = load_file(run.model / "model.safetensors"), job.loaded.model.state_dict()
    for name in ("classifier.weight", "classifier.bias"):
        assert torch.equal(now[name][:5], old[name])
        assert now[name].shape[0] == 9
    counts = Counter(tag for r in job.data.prepared.parts["train"] for tag in r.target)
    expected = [math.log((counts[i] + 1) / (counts.total() + 9)) for i in range(5, 9)]
    assert now["classifier.bias"][5:].tolist() == pytest.approx(expected, abs=1e-5)
    assert set(job.probes) == {f"earlier:{run.id}"}
    done = luthier.continue_run(run, data=tmp_path / "new.jsonl", epochs=1)
    assert "f1" in done.scores["probes"][f"earlier:{run.id}"]["model"]
    assert done.facts["drift"]["labels"]["new"] == ["B", "D"]


def test_a_plain_recipe_from_a_runs_model_keeps_the_rows_by_name(base, first, tmp_path):
    """Its labels stand in another order: 'a new one' sorts before the old ones."""
    rows = [(t, "a new one" if label == "neutral" else label) for t, label in moods(90, *OLD, "neutral", seed=5)]
    recipe = {**base, "data": {"train": str(write(tmp_path / "rows.csv", rows))}, "model": {"name": str(first.folder)}}
    job = build(load_recipe(recipe))
    assert job.task.labels == ("a new one", *OLD)
    old = load_file(first.model / "model.safetensors")["classifier.weight"]
    assert torch.equal(job.loaded.model.classifier.weight[1:], old)
    probe = job.probes[f"earlier:{first.id}"]
    assert len(probe.gold) == first.scores["test_rows"]
    assert set(probe.gold.tolist()) == {1, 2}
    right = (probe.figures()[:, 1:].argmax(1) + 1 == probe.gold).mean()
    assert right == first.scores["methods"]["model"]["accuracy"]["value"]


# ── the rows ───────────────────────────────────────────────────────────────────────────────────


def test_every_epoch_has_each_new_row_once_and_its_share_of_earlier_ones(first, new):
    for share in (0.2, 0.5, 0.75):
        job = job_of(first, new, replay=share)
        train, streams = job.data.prepared.parts["train"], job.data.streams(range(len(job.tokens["train"])))
        fresh = [i for i, s in enumerate(streams) if s == NEW]
        assert {train[i].key for i in fresh} == {r.key for r in job.data.earlier.new}  # type: ignore[union-attr]
        seen: Counter[int] = Counter()
        for epoch in range(2):
            rows = job.course.rows(epoch)
            assert sorted(r for r in rows if streams[r] == NEW) == fresh
            again = [r for r in rows if streams[r] == LEARNED]
            assert len(again) == round(len(fresh) * share / (1 - share))
            seen.update(again)
        assert max(seen.values()) - min(seen.values()) <= 1 or len(seen) == job.data.prepared.summary["earlier"]["train"]
        assert job.plan.updates_per_epoch == -(-len(job.course.rows(0)) // 16)
        assert job.plan.stages == ()


def test_a_reservoir_is_balanced_by_label_and_no_larger_than_asked(base, folder, new):
    rows = [*moods(90, "negative"), *moods(30, "positive")]
    run = run_of(base, data={"train": str(write(folder / "uneven.csv", rows))})
    balanced = data_of(run, new, overrides=["curriculum.reservoir=20"])
    assert balanced.task.label_counts(balanced.earlier.replayed) == {"negative": 10, "positive": 10, "neutral": 0}
    uniform = data_of(run, new, overrides=["curriculum.reservoir=20", "curriculum.selection=uniform"])
    counts = uniform.task.label_counts(uniform.earlier.replayed)
    assert sum(counts.values()) == 20
    assert counts["negative"] > counts["positive"]
    two = write(folder / "two.csv", moods(40, "neutral", "positive", seed=2))
    assert data_of(run, two, replay=0).earlier.replayed == []
    with pytest.raises(DataError, match="one class only"):
        data_of(run, new, replay=0)
    whole = data_of(run, new, overrides=["curriculum={type: mixture, mixing: {earlier: 3, new: 1}}"])
    assert len(whole.earlier.replayed) == len(whole.earlier.trained) == run.facts["data"]["summary"]["train"]
    again = data_of(run, new, overrides=["curriculum.reservoir=20"])
    assert [r.key for r in again.earlier.replayed] == [r.key for r in balanced.earlier.replayed]
    other = data_of(run, new, overrides=["curriculum.reservoir=20", "training.seed=3"])
    assert {r.key for r in other.earlier.replayed} != {r.key for r in balanced.earlier.replayed}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("own_test", [False, True])
def test_nothing_tested_on_is_trained_on_by_either_run(first, tmp_path, seed, own_test):
    """The new file repeats the old rows, grown by others, so that a fresh split would put them elsewhere."""
    rows = [*moods(80, *OLD), *moods(70, *OLD, "neutral", seed=7)]
    path = write(tmp_path / "grown.csv", rows)
    overrides = [f"training.seed={seed}"]
    if own_test:
        held = write(tmp_path / "held.csv", [*moods(80, *OLD)[::3], *moods(30, "neutral", seed=9)])
        overrides += [f"data.test={held}"]
    data = data_of(first, path, overrides=overrides)
    before = dataset(recipe_of(first))
    for part in ("validation", "test"):
        assert not keys(data, part) & keys(data, "train")
        assert not keys(data, part) & keys(before, "train"), "the model that it starts from was trained on it"
        assert keys(before, part) <= keys(data, part)
    assert not keys(data, "validation") & keys(data, "test")
    assert {r.key for r in data.earlier.tested} <= keys(before, "test")
    if not own_test:
        assert len(set.union(*(keys(data, p) for p in ("train", "validation", "test")))) == len({t for t, _ in rows})


def test_rows_of_a_group_stay_on_its_side(base, folder, tmp_path):
    def grouped(path: Path, rows: list[tuple[str, str]], groups: int) -> Path:
        path.write_text("\n".join(json.dumps({"text": t, "label": c, "who": f"p{i % groups}"}) for i, (t, c) in enumerate(rows)))
        return path

    old = grouped(folder / "grouped.jsonl", moods(80, *OLD), 20)
    run = run_of(base, data={"train": str(old), "group": "who"})
    data, before = data_of(run, grouped(tmp_path / "more.jsonl", moods(60, *OLD, "neutral", seed=4), 30)), dataset(recipe_of(run))

    def groups(found: Dataset, part: str) -> set[str]:
        return {r.group for r in found.prepared.parts[part]}  # type: ignore[index]

    assert groups(before, "test") <= groups(data, "test")
    assert not groups(data, "test") & (groups(data, "train") | groups(before, "train"))
    assert sum(len(p) for p in data.prepared.parts.values()) == 80 + 60


def test_a_text_in_two_parts_of_the_earlier_run_stays_in_both(base, folder, new):
    """Its own files overlap: no test row is lost for that."""
    held = write(folder / "overlapping.csv", moods(80, *OLD)[:12])
    run = run_of(base, data={"test": str(held)})
    data = data_of(run, new)
    assert len(data.earlier.tested) == 12
    assert not keys(data, "train") & keys(data, "test")


def test_a_new_answer_for_an_old_row_counts(first, tmp_path):
    """Half of the positive rows are split off into a class of their own: their old copies are gone from every part."""
    rows = [(t, "delighted") for t, label in moods(80, *OLD) if label == "positive"][::2]
    data = data_of(first, write(tmp_path / "split.csv", rows))
    moved = {r.key for part in data.prepared.parts.values() for r in part if r.target == 2}
    assert len(moved) == len(rows)
    assert not any(r.key in moved and r.target != 2 for part in data.prepared.parts.values() for r in part)
    assert any(
        f"{len(rows)} of the new rows stood in the earlier data, {len(rows)} of them with another answer" in n for n in data.prepared.notes
    )


def test_the_same_file_again_is_told(first, base):
    data = data_of(first, Path(base["data"]["train"]))
    assert any("every new row stood in the earlier data, with the same answer" in n for n in data.prepared.notes)
    assert data.earlier.replayed == data.earlier.tested == []
    assert keys(data, "test") == keys(dataset(recipe_of(first)), "test")


def test_single_rows_and_labels_that_look_alike(first, tmp_path):
    rows = [("the film was flat", "Positive "), ("a plain room", "neutral"), ("an average screen", "neu tral")]
    data = data_of(first, write(tmp_path / "odd.csv", rows))
    assert len(data.earlier.new) == 3
    assert any("the new label 'Positive' looks like 'positive' of the earlier run" in n for n in data.prepared.notes)
    only = data_of(first, write(tmp_path / "only.csv", moods(30, *OLD, seed=8)))
    assert only.task.labels == OLD


# ── the run ────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def second(first, new) -> luthier.Run:
    return luthier.continue_run(first, data=new, epochs=3)


def test_a_continued_run_has_its_lineage_its_scores_and_the_drift(first, second, new):
    facts, scores = second.facts, second.scores
    assert facts["parent"] == first.id
    assert set(facts["data"]["files"]) == {str(new), *first.facts["data"]["files"], str(first.folder / "recipe.yaml")}
    own = facts["data"]["summary"]["earlier"]
    assert scores["test_rows"] == own["test"] + 8
    probe = scores["probes"][f"earlier:{first.id}"]
    assert probe["rows"] == own["test"] == first.scores["test_rows"]
    assert {"base", "model", "difference"} <= set(probe)
    assert facts["drift"]["labels"]["new"] == ["neutral"]
    assert facts["drift"]["labels"]["missing"] == list(OLD)
    told = [n for n in facts["notes"] if n.startswith("new texts ") and "from old ones: AUC" in n]
    assert len(told) == 1
    page = second.report.read_text()
    assert "New data against the earlier data" in page
    assert told[0] in page
    sources = {path: (value, source) for path, value, source in onward(first, data=new, epochs=3).values()}
    assert sources["data.earlier"] == (str(first.folder), "python")
    assert sources["curriculum.share"][0] == 0.5


def test_it_is_reproduced_from_its_record(second):
    again, result = luthier.reproduce(second)
    assert result["same_data"]
    assert result["same_weights"]
    assert result["same_log"]


def test_killed_in_the_middle_it_resumes_to_the_same_bits(first, new, base):
    options: dict[str, Any] = {"data": new, "epochs": 4, "overrides": ["checkpoints.every_steps=3"]}
    whole = endings(luthier.continue_run(first, **options))
    with pytest.raises(Interrupted):
        luthier.continue_run(first, **options, listener=stopping_at(5))
    run = newest_run(base)
    assert run.facts["status"] == "interrupted"
    assert endings(luthier.resume(run)) == whole


def test_a_chain_of_runs_remembers_all_its_rows(first, second, tmp_path):
    """Third of its line: tested on what either run before it was tested on; what the second replayed is not replayed as its own."""
    rows = [(t, "worn") for t, _ in moods(40, "negative", seed=11)]
    path = write(tmp_path / "third.csv", rows)
    data = data_of(second, path)
    assert data.task.labels == (*OLD, "neutral", "worn")
    assert keys(dataset(recipe_of(first)), "test") <= keys(data, "test")
    recent = data_of(second, path, overrides=["curriculum.selection=recent"])
    assert set(recent.task.label_counts(recent.earlier.replayed).items()) >= {("negative", 0), ("positive", 0)}
    assert recent.task.label_counts(recent.earlier.replayed)["neutral"] > 0
    trained = keys(dataset(recipe_of(first)), "train")
    other = [(t, "worn" if i % 2 else "positive") for i, (t, _) in enumerate(moods(40, "negative", seed=12))]
    forgetful = luthier.continue_run(first, data=write(tmp_path / "b.csv", other), epochs=1, replay=0)
    texts = {r.key: r.text for r in dataset(recipe_of(first)).prepared.parts["train"]}
    back = write(tmp_path / "back.csv", [*[(t, "negative") for t in texts.values()], *rows])
    assert trained.isdisjoint(keys(data_of(forgetful, back), "test")), "rows of the first run's training are no test of the third"


def test_going_on_without_new_data_is_as_before(second):
    longer = onward(second, data=None, epochs=1)
    assert longer.recipe.data.earlier == recipe_of(second).recipe.data.earlier
    assert keys(dataset(longer), "train") == keys(dataset(recipe_of(second)), "train")


def test_limits_on_the_run_before_pass_on_to_this_one(base, new, first):
    second = luthier.continue_run(first, data=new, epochs=1, overrides=[f"evaluation.fail_if={{earlier:{first.id}: drop > 0.9}}"])
    assert second.good
    assert onward(second, data=new, epochs=1).recipe.evaluation.fail_if == {f"earlier:{second.id}": "drop > 0.9"}


# ── other tasks ────────────────────────────────────────────────────────────────────────────────


def test_texts_are_learned_on_with_replay(base, folder, tmp_path):
    texts = [t for t, _ in tiny.moods_rows(60)]
    (folder / "old.txt").write_text("\n---\n".join(texts))
    (tmp_path / "new.jsonl").write_text("\n".join(json.dumps({"text": f"{t} {t}"}) for t in texts[:20]))
    scratch = {"vocabulary": 340, "hidden_size": 16, "layers": 1, "heads": 2, "context": 8}
    run = run_of(
        {**base, "model": {"from_scratch": scratch}},
        data={"train": str(folder / "old.txt"), "separator": "\n---\n"}, task={"type": "causal", "max_new_tokens": 4},
    )  # fmt: skip
    job = job_of(run, tmp_path / "new.jsonl")
    streams = job.data.streams(job.tokens["train"].owner.tolist())
    assert len(streams) > len(job.data.prepared.parts["train"]), "documents of several windows"
    assert set(streams) == {LEARNED, NEW}
    own = streams.count(NEW)
    assert Counter(streams[r] for r in job.course.rows(0)) == {NEW: own, LEARNED: own}
    assert set(job.probes) >= {f"earlier:{run.id}"}


def trees(path: Path, count: int, *relations: str) -> Path:
    rows = [t.split() for t, _ in tiny.moods_rows(count, seed=len(relations))]
    path.write_text("\n".join(
        json.dumps({"words": w, "head": list(range(len(w))), "deprel": [relations[len(x) % len(relations)] for x in w]}) for w in rows
    ))  # fmt: skip
    return path


def test_a_parser_goes_on_with_the_relations_it_knows(base, folder, tmp_path):
    run = run_of(
        base, data={"train": str(trees(folder / "trees.jsonl", 50, "a", "b"))}, task={"type": "parsing", "arc_width": 8, "label_width": 8}
    )
    job = job_of(run, trees(tmp_path / "fewer.jsonl", 20, "b"))
    assert job.task.relations == ("a", "b")
    assert not job.loaded.fresh_head
    with pytest.raises(DataError, match=r"knows no relation 'c', and a parser's head takes no new ones.*\n.*train a new run"):
        data_of(run, trees(tmp_path / "more.jsonl", 20, "a", "c"))


def test_a_run_of_several_tasks_takes_no_new_data(first, new, base):
    recipe = {**base, "data": {**base["data"], "earlier": str(first.folder)}}
    recipe["task"] = {"type": "multitask", "tasks": {"a": {"type": "classification"}, "b": {"type": "classification"}}}
    with pytest.raises(RecipeError, match="a run of several tasks takes no new data"):
        dataset(load_recipe(recipe))
    few = {**recipe, "task": {"type": "few_shot"}}
    with pytest.raises(RecipeError, match="a run of few shots takes no new data"):
        dataset(load_recipe(few))


# ── what cannot be ─────────────────────────────────────────────────────────────────────────────


def test_data_that_have_changed_are_refused_with_a_way_out(base, folder, new):
    path = write(folder / "moving.csv", moods(60, *OLD))
    run = run_of(base, data={"train": str(path)}, output={"name": "moving"})
    with path.open("a") as file:
        file.write("the film was great,positive\n")
    with pytest.raises(RunError, match=r"moving.csv has changed since the run began[\s\S]*train a recipe with `model: "):
        data_of(run, new)
    path.unlink()
    with pytest.raises(RunError, match="is gone"):
        data_of(run, new)


def test_what_does_not_fit_together_is_refused(first, new, base, tmp_path):
    def refused(error: type[LuthierError], said: str, *overrides: str, data: Path = new) -> None:
        with pytest.raises(error, match=said):
            data_of(first, data, overrides=list(overrides))

    refused(RecipeError, "the earlier run was the first stage", "curriculum={type: sequential}")
    refused(RecipeError, "the earlier run was the first stage", "curriculum.order=[earlier, new]")
    refused(DataError, "that run learned classification/single_label, and this one learns", "task.kind=multi_label")
    refused(DataError, "that run learned classification, and this one learns tagging", "task={type: tagging}")
    refused(RecipeError, "rows of the earlier run were made with None", "task.prompt='we found {text}'")
    refused(RunError, "no run in nowhere", "data.earlier=nowhere")
    tests = {r["text"] for r in first.lines("predictions/test.jsonl")}
    refused(DataError, "no new row is left to train on", data=write(tmp_path / "t.csv", [r for r in moods(80, *OLD) if r[0] in tests]))
    with pytest.raises(DataError, match="no such file"):
        data_of(first, tmp_path / "none.csv")


def test_labels_that_stand_as_numbers_need_their_names(base, folder, tmp_path):
    numbered = [(t, str(OLD.index(label))) for t, label in moods(60, *OLD)]
    run = run_of(base, data={"train": str(write(folder / "numbers.csv", numbered))}, task={"labels": list(OLD)})
    more = write(tmp_path / "more.csv", [(t, "2") for t, _ in moods(20, "neutral")])
    with pytest.raises(DataError, match="label '2' of the train part is not among those of training"):
        data_of(run, more)
    data = data_of(run, more, overrides=["task.labels=[negative, positive, neutral]"])
    assert data.task.labels == (*OLD, "neutral")
    assert {r.target for r in data.earlier.new} == {2}
    with pytest.raises(DataError, match="does not begin with those of the earlier run"):
        data_of(run, more, overrides=["task.labels=[positive, negative, neutral]"])


def test_the_command_says_what_is_wrong_in_words(first, new, folder, tmp_path):
    """And no new run folder."""
    (tmp_path / "empty.csv").write_text("")
    write(tmp_path / "unlabelled.csv", [("a", "b")])
    (tmp_path / "unlabelled.csv").write_text("text,mood\nthe film was plain,neutral\n")
    unfinished = tmp_path / "unfinished-1"
    unfinished.mkdir()
    (unfinished / "run.json").write_text(json.dumps({"status": "interrupted"}))
    cases: dict[tuple[str, ...], str] = {
        (str(first.folder),): "say how much longer",
        (str(first.folder), "--epochs", "1", "--replay", "0.1"): "--replay is for new data",
        (str(first.folder), "--data", str(tmp_path / "empty.csv")): "empty.csv",
        (str(first.folder), "--data", str(tmp_path / "unlabelled.csv")): "no column 'label'",
        (str(first.folder), "--data", str(tmp_path / "none.csv")): "no such file",
        (str(first.folder), "--data", str(new), "--replay", "1"): "1",
        (str(unfinished), "--data", str(new)): "luthier resume",
        ("nothing-1", "--data", str(new)): "no run 'nothing-1'",
    }
    runs = sorted((folder / "runs").iterdir())
    for arguments, said in cases.items():
        answer = command("continue", *arguments, folder=tmp_path, columns=300)
        assert said in answer.stderr, (arguments, answer)
        assert answer.returncode != 0, arguments
    assert sorted((folder / "runs").iterdir()) == runs
    assert not (tmp_path / "runs").exists()


def test_the_command_goes_on(first, new, tmp_path):
    done = command("continue", first.folder, "--data", new, "--epochs", "1", "--replay", "0.3", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "from old ones: AUC" in done.stdout
    assert f"elsewhere earlier:{first.id}: accuracy" in done.stdout
