"""Many sets of instructions in one model: each one's rows, options, answers and scores are its own, as if it were alone."""

from __future__ import annotations

import dataclasses
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

import luthier
from luthier.cli.main import root
from luthier.cli.screen import scores_table
from luthier.data.rows import Row
from luthier.errors import DataError, LabelError, LuthierError, RecipeError, RunError
from luthier.models.language import language_loss
from luthier.recipe import load_recipe
from luthier.tasks.texts import TextScores
from luthier.workflow import written
from luthier.workflow.build import build
from luthier.workflow.stream import stream

SMALL = {"architecture": "llama", "vocabulary": 300, "hidden_size": 16, "layers": 1, "heads": 2, "context": 128}
COLOURS = ("red", "blue", "green", "black")


def rows_of(count: int, seed: int) -> dict[str, list[dict[str, Any]]]:
    """A choice of one word, and a text said again; four rows a group."""
    draw = random.Random(seed)
    found: dict[str, list[dict[str, Any]]] = {"colour": [], "again": []}
    for i in range(count):
        colour, name = draw.choice(COLOURS), f"{draw.choice(['cat', 'dog', 'hen'])} {i}"
        found["colour"].append({"prompt": f"The {name} is {colour}. Which colour?", "completion": colour, "group": f"g{i // 4}"})
        again = f"a {name} that is {colour} went to the house"
        found["again"].append({"prompt": f"Say again: {again}", "completion": again, "group": f"g{i // 4}"})
    return found


def write_rows(folder: Path, count: int = 80) -> None:
    for name, rows in rows_of(count, 0).items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))


def families(folder: Path, **sections: Any) -> dict[str, Any]:
    return {
        "data": {"train": str(folder / "colour.jsonl"), "group": "group"},
        "task": {
            "type": "multitask",
            "tasks": {
                "colour": {"type": "chat", "max_new_tokens": 3},
                "again": {"type": "chat", "max_new_tokens": 9, "data": {"train": str(folder / "again.jsonl")}},
            },
        },
        "model": {"from_scratch": SMALL},
        "training": {"epochs": 1, "batch_size": 16, "threads": 1, "rehearsal": False},
        "evaluation": {"bootstrap": 100, "written": 6, "metric": "mean"},
        "output": {"folder": str(folder / "runs"), "name": "both"},
        **sections,
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("families")
    write_rows(made)
    return made


@pytest.fixture(scope="module")
def first(folder):
    """A model that both sets have trained from nothing."""
    return luthier.train(families(folder, output={"folder": str(folder / "runs"), "name": "first"}))


@pytest.fixture(scope="module")
def run(folder, first):
    """The same trained on, so that there is a before."""
    return luthier.train(families(folder, model={"name": str(first.model)}))


def of(run: luthier.Run, name: str) -> list[dict[str, Any]]:
    return [s for s in run.lines("predictions/samples.jsonl") if s["task"] == name]


def test_each_score_is_that_of_its_own_answers(run):
    assert {len(of(run, n)) for n in ("colour", "again")} == {6}, "so many rows of each"
    for when, method in (("before", "base"), ("after", "model")):
        found = run.scores["methods"][method]
        for name in ("colour", "again"):
            said = of(run, name)
            scorer = TextScores()
            alone = scorer.scores(None, scorer.figures([s[when] for s in said], [[s["reference"]] for s in said]))
            assert {n: found[f"{name}.{n}"]["value"] for n in alone} == pytest.approx(alone)
            assert {found[f"{name}.{n}"]["n"] for n in alone} == {6}
            assert all(found[f"{name}.{n}"]["low"] <= v <= found[f"{name}.{n}"]["high"] for n, v in alone.items())
    scores = run.scores["methods"]["model"]
    assert run.scores["mains"] == ["colour.exact_match", "again.chrf"], "a word is a choice, a sentence is a text"
    assert scores["mean"]["value"] == pytest.approx((scores["colour.exact_match"]["value"] + scores["again.chrf"]["value"] / 100) / 2)
    assert scores["colour.loss"]["n"] == sum(p["task"] == "colour" for p in run.lines("predictions/test.jsonl"))


def test_each_is_measured_as_if_it_were_alone(folder, first, run):
    """A run of one set, from the same model, has the same rows, and the same scores before training."""
    alone = families(folder, model={"name": str(first.model)}, output={"folder": str(folder / "runs"), "name": "alone"})
    alone["data"] = {"train": str(folder / "again.jsonl"), "group": "group"}
    alone["task"] = {"type": "chat", "max_new_tokens": 9}
    alone["evaluation"] = {"bootstrap": 100, "written": 6}
    single = luthier.train(alone)
    mine = [p for p in run.lines("predictions/test.jsonl") if p["task"] == "again"]
    theirs = single.lines("predictions/test.jsonl")
    assert [p["line"] for p in mine] == [p["line"] for p in theirs]
    assert [p["line"] for p in mine if "written" in p] == [p["line"] for p in theirs if "written" in p]
    before, there = run.scores["methods"]["base"], single.scores["methods"]["base"]
    assert {n: before[f"again.{n}"]["value"] for n in there} == pytest.approx({n: s["value"] for n, s in there.items()}, rel=1e-5)
    assert [s["before"] for s in of(run, "again")] == [s["before"] for s in single.lines("predictions/samples.jsonl")]


def test_predictions_name_the_task_and_what_was_said(run):
    found = run.lines("predictions/test.jsonl")
    assert {p["task"] for p in found} == {"colour", "again"}
    assert [p["written"] for p in found if "written" in p] == [s["after"] for s in run.lines("predictions/samples.jsonl")]
    for row in found:
        assert row["target"] in COLOURS if row["task"] == "colour" else row["target"].startswith("a ")
    page = run.report.read_text(encoding="utf-8")
    assert "colour.exact match" in page
    assert "again.chrf" in page
    assert page.count("<td>colour</td>") == page.count("<td>again</td>") == 6, "samples of both"
    assert list(scores_table(run).columns[0].cells) == ["mean", "colour.exact match", "again.chrf", "loss"]
    shown = CliRunner().invoke(root, ["evaluate", str(run.folder), "--json"])
    assert set(json.loads(shown.output)["scores"]) == set(run.scores["methods"]["model"])


def test_the_longest_answer_and_the_prompt_are_each_tasks_own(folder, first, monkeypatch):
    asked: list[tuple[int, int]] = []
    real = written.generate

    def counting(model, tokenizer, prompts, sampling, **more):
        found = real(model, tokenizer, prompts, sampling, **more)
        asked.append((sampling.max_new_tokens, max(len(a[0].tokens) for a in found)))
        return found

    monkeypatch.setattr(written, "generate", counting)
    recipe = families(folder, model={"name": str(first.model)})
    recipe["task"]["tasks"]["again"]["system"] = "Say it."
    job = build(load_recipe(recipe))
    written.write(job, "test")
    assert [most for most, _ in asked] == [3, 9]
    assert all(longest <= most for most, longest in asked)
    roles = {n: {m["role"] for r in job.task.own(n, job.data.prepared.parts["train"]) for m in r.target.messages} for n in job.task.tasks}
    assert roles == {"colour": {"user", "assistant"}, "again": {"system", "user", "assistant"}}


def test_own_prompts_of_texts_with_targets(folder, first):
    recipe = families(folder, model={"name": str(first.model)})
    recipe["data"] |= {"text": "prompt", "label": "completion"}
    for name, prompt in (("colour", "Q: {text}"), ("again", "R: {text}")):
        recipe["task"]["tasks"][name] |= {"type": "text2text", "prompt": prompt, "separator": " "}
    job = build(load_recipe(recipe))
    for name, mark in (("colour", "Q: "), ("again", "R: ")):
        assert all(r.text.startswith(mark) for r in job.task.own(name, job.data.prepared.parts["test"]))
    assert "ways of their own" in job.task.source({"prompt": "hello"})
    assert job.task.baselines == ("copy",)


def test_weights_count_and_shares_add_up(folder, first):
    recipe = families(folder, model={"name": str(first.model)})
    recipe["task"]["tasks"]["again"]["weight"] = 3.0
    job = build(load_recipe(recipe))
    layout, model = job.loaded.layout, job.loaded.model.eval()
    updates = stream(job.tokens["train"], job.data.prepared.parts["train"], job.task, job.resolved.recipe.training, layout)
    batch = next(iter(updates)).batches[0]
    task = batch.targets["task"][batch.segments.owner]
    assert set(task.tolist()) == {0, 1}
    found = job.task.loss(layout)(model, batch)
    found.sum.backward()
    mine = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    total, weight = 0.0, 0.0
    for number, each in ((0, 1.0), (1, 3.0)):
        own = dataclasses.replace(batch, labels=torch.where(task == number, batch.labels, -100))
        value, count = language_loss(model, own, layout)
        total, weight = total + each * value, weight + each * count
    total.backward()
    assert float(found.sum.detach()) == pytest.approx(float(total.detach()), rel=1e-5)
    assert found.weight == weight
    assert sum(found.parts.values()) == pytest.approx(found.weight)
    assert all(torch.allclose(a, p.grad, atol=1e-4) for a, p in zip(mine, model.parameters(), strict=True))


def test_the_same_prompt_in_two_sets_has_both_answers(tmp_path):
    """Of tasks that share a head, a text of both is two examples."""
    for name, answer in (("colour", "no"), ("again", "yes of course")):
        rows = [{"prompt": f"Is it {i}?", "completion": answer, "group": i} for i in range(30)]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    job = build(load_recipe(families(tmp_path)))
    said = Counter()
    for example in job.tokens["train"].examples():
        said[job.loaded.tokenizer.decode([i for i in example["labels"] if i >= 0], skip_special_tokens=True).strip()] += 1
    assert set(said) == {"no", "yes of course"}
    assert (
        said["no"]
        == said["yes of course"]
        == sum(map(len, job.data.prepared.parts.values())) // 2 - sum(len(job.data.prepared.parts[p]) // 2 for p in ("validation", "test"))
    )


def test_a_group_stays_on_one_side_over_all_tasks(folder, first):
    job = build(load_recipe(families(folder, model={"name": str(first.model)})))
    parts = {part: {r.group for r in records} for part, records in job.data.prepared.parts.items()}
    assert all(len(groups) > 1 for groups in parts.values())
    assert not parts["train"] & (parts["test"] | parts["validation"])
    recipe = families(folder, model={"name": str(first.model)})
    recipe["task"]["tasks"]["again"]["data"] |= {"test_share": 0.5}
    job = build(load_recipe(recipe))
    moved = job.data.prepared.summary["left_out_for_another_task"]
    assert moved > 0
    held = {r.group for part in ("validation", "test") for r in job.data.prepared.parts[part]}
    assert not held & {r.group for r in job.data.prepared.parts["train"]}


@pytest.mark.parametrize(
    ("section", "shares"),
    [
        ({"type": "mixture", "mixing": "uniform"}, (0.5, 0.5)),
        ({"type": "mixture", "mixing": {"colour": 1, "again": 4}}, (0.2, 0.8)),
        ({"type": "mixture", "mixing": "proportional"}, (0.25, 0.75)),
        ({"type": "mixture", "mixing": "temperature", "temperature": 2}, (1 / (1 + 3**0.5), 3**0.5 / (1 + 3**0.5))),
    ],
)
def test_the_run_says_what_it_was_trained_on(folder, first, section, shares):
    recipe = families(folder, model={"name": str(first.model)}, curriculum=section)
    recipe["task"]["tasks"]["again"]["data"]["limit"] = 48
    recipe["task"]["tasks"]["colour"]["data"] = {"limit": 16}
    recipe["evaluation"] = {"written": 0, "bootstrap": 100, "base_model": False}
    run = luthier.train(recipe)
    found = run.facts["streams"]
    assert sum(s["examples"] for s in found.values()) == 64
    assert [found[n]["share"] for n in ("colour", "again")] == pytest.approx(shares, abs=0.02)
    graded = [line["parts"] for line in run.lines("log.jsonl")]
    assert all(sum(parts.values()) == pytest.approx(1) for parts in graded), "of what was graded, in each update"


def test_a_dynamic_mixture_follows_the_losses_of_texts(folder, first):
    recipe = families(folder, model={"name": str(first.model)}, curriculum={"type": "mixture", "mixing": "dynamic"})
    recipe["training"] |= {"epochs": 3}
    recipe["evaluation"] = {"written": 0, "bootstrap": 100, "base_model": False}
    run = luthier.train(recipe)
    losses = [(e["colour.loss"], e["again.loss"]) for e in run.lines("evaluations.jsonl")]
    rows = run.facts["data"]["summary"]["train"]
    left = [losses[1][i] / losses[0][i] for i in (0, 1)]
    wanted = rows / 2 * 2 + rows * left[0] / sum(left)
    assert abs(run.facts["streams"]["colour"]["examples"] - wanted) <= 2


def test_the_checkpoint_is_chosen_by_the_mean(run):
    lines = run.lines("evaluations.jsonl")
    assert all({"mean", "colour.exact_match", "again.chrf"} <= set(line) for line in lines)
    assert run.facts["score"]["metric"] == "mean"


def test_runs_are_compared_task_by_task(run, first):
    found, differing = luthier.compare(first, run)
    mine, theirs = run.scores["methods"]["model"], first.scores["methods"]["model"]
    for name in ("mean", "colour.exact_match", "again.chrf", "again.loss"):
        assert found.differences[name][0] == pytest.approx(mine[name]["value"] - theirs[name]["value"])
    assert differing


def test_both_commands_show_a_line_for_each_score(run, first):
    for arguments in (["evaluate", str(run.folder)], ["compare", str(first.folder), str(run.folder), "--rows", "2"]):
        shown = CliRunner().invoke(root, arguments)
        assert shown.exit_code == 0, shown.output
        lines = {line.split()[0] for line in shown.output.splitlines() if line}
        assert {"mean", "colour.exact_match", "again.chrf", "again.perplexity"} <= lines


def test_runs_of_other_tasks_are_not_compared(folder, run):
    recipe = families(folder, output={"folder": str(folder / "runs"), "name": "swapped"})
    recipe["task"]["tasks"] = dict(reversed(recipe["task"]["tasks"].items()))
    recipe["evaluation"] = {"written": 0, "bootstrap": 100}
    with pytest.raises(RunError, match="different labels or kinds"):
        luthier.compare(run, luthier.train(recipe))


def test_other_files_say_which_task_a_row_is_of(run, tmp_path):
    rows = [{**r, "task": name} for name, own in rows_of(8, 7).items() for r in own]
    path = tmp_path / "new.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in [*rows, {"prompt": "?", "completion": "!"}]))
    from luthier.workflow.measure import evaluate

    scores, rest = evaluate(run, [path])
    assert scores["colour.exact_match"]["n"] == 6
    assert scores["again.loss"]["n"] == 8
    assert "has to name one of colour, again" in rest.quarantined[0].reason
    (tmp_path / "none.jsonl").write_text(json.dumps({"prompt": "?", "completion": "!"}) + "\n")
    with pytest.raises(DataError, match="has to name one of"):
        evaluate(run, [tmp_path / "none.jsonl"])


def test_it_answers_through_generate_and_gives_no_labels(run):
    answer = CliRunner().invoke(root, ["generate", str(run.folder), "The cat is red. Which colour?", "--max-new-tokens", "3"])
    assert answer.exit_code == 0, answer.output
    with pytest.raises(DataError, match="gives no labels: use luthier generate"):
        luthier.predict(run, ["hello"])


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "label smoothing": ({"label_smoothing": 0.1}, "task.tasks.again.label_smoothing: is 0.1, and 0.0 for colour: they share one loss"),
    "z-loss": ({"z_loss": 0.1}, "task.tasks.again.z_loss"),
    "a template": ({"template": "other.jinja"}, "a model has one template"),
    "a score that it has not": ({"metric": "exact_mach"}, "did you mean exact_match"),
    "findings to accept": ({"data": {"accept": ["answers-truncated"]}}, "write it in the recipe's own data section"),
    "another type": ({"type": "causal"}, "cannot share one model"),
    "a type that trains alone": ({"type": "preference"}, r"task.tasks.again.type: is trained alone"),
}


@pytest.mark.parametrize("case", sorted(REFUSED))
def test_what_cannot_be_a_tasks_own_is_refused(folder, case):
    changes, message = REFUSED[case]
    recipe = families(folder)
    own = recipe["task"]["tasks"]["again"]
    recipe["task"]["tasks"]["again"] = {**own, **changes, "data": {**own["data"], **changes.get("data", {})}}
    if "type" in changes:
        del recipe["task"]["tasks"]["again"]["data"], recipe["task"]["tasks"]["again"]["max_new_tokens"]
    with pytest.raises(RecipeError, match=message.replace("(", r"\(")):
        build(load_recipe(recipe))


def test_labels_are_looked_at_task_by_task(folder, tmp_path):
    """One set whose answers do not fit is named; the other is as it should be."""
    rows = [{"prompt": f"Go on, {i}", "completion": "word " * 200, "group": f"g{i}"} for i in range(40)]
    (tmp_path / "long.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    recipe = families(folder)
    recipe["task"]["tasks"]["again"]["data"]["train"] = str(tmp_path / "long.jsonl")
    with pytest.raises(LabelError, match="answers-truncated: again: ") as caught:
        build(load_recipe(recipe))
    assert "colour:" not in str(caught.value)


def test_long_documents_of_several_sets_keep_all_their_windows(tmp_path):
    for name in ("colour", "again"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": f"{name} {i} " + "and on " * 120}) + "\n" for i in range(20)))
    recipe = families(tmp_path)
    recipe["data"] = {"train": str(tmp_path / "colour.jsonl")}
    recipe["task"]["tasks"] = {
        "colour": {"type": "causal"}, "again": {"type": "causal", "data": {"train": str(tmp_path / "again.jsonl")}},
    }  # fmt: skip
    recipe["evaluation"] = {"written": 1, "bootstrap": 100}
    job = build(load_recipe(recipe))
    tokens = job.tokens["train"]
    alone = (
        job.task.tasks["again"]
        .encode(
            job.task.own("again", job.data.prepared.parts["train"]), job.loaded.tokenizer, config=job.loaded.model.config, max_length=128
        )
        .tokens
    )
    mine = [e["input_ids"] for e, n in zip(tokens.examples(), job.task.streams(0), strict=True) if n == "again"]
    assert len(mine) == len(alone) > tokens.records() / 2
    assert all(np.array_equal(a, b["input_ids"]) for a, b in zip(mine, alone.examples(), strict=True))


def test_masked_sets_must_hide_alike(folder, tiny_model):
    recipe = families(folder, model={"name": str(tiny_model)})
    recipe["data"] |= {"text": "prompt"}
    recipe["evaluation"] = {"written": 2, "bootstrap": 100}
    for name in ("colour", "again"):
        own = recipe["task"]["tasks"][name]
        recipe["task"]["tasks"][name] = {"type": "masked", **{k: v for k, v in own.items() if k == "data"}}
    job = build(load_recipe(recipe))
    figures = written.figures(job, "test", [])
    assert set(written.scores(job, figures)) == {f"{n}.{s}" for n in ("colour", "again") for s in ("pseudo_perplexity",)}
    recipe["task"]["tasks"]["again"]["mask_share"] = 0.4
    with pytest.raises(RecipeError, match="masked in one stream"):
        build(load_recipe(recipe))


def test_a_row_of_an_unknown_task_is_told(run):
    from luthier.workflow.measure import task_of

    found = task_of(run).record(Row({"prompt": "a", "completion": "b", "task": "other"}, "f", 1))
    assert isinstance(found, str)
    assert "'other'" in found
    with pytest.raises(LuthierError):
        luthier.predict(run, ["a"])
