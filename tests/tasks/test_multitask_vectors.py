"""Embeddings beside other tasks on one trunk: the losses of each alone, the same answers, and prompts and columns of one's own."""

from __future__ import annotations

import csv
import random

import pytest
import torch

import luthier
from luthier.models.forward import hidden_states
from luthier.models.several import member, part_of, ready
from luthier.recipe import load_recipe
from luthier.workflow.build import build
from luthier.workflow.stream import stream
from tests import tiny


@pytest.fixture
def near(recipe, tmp_path):
    """A text's mood, and another text that has its words."""
    path = tmp_path / "near.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "other", "label", "score"])
        for i, (text, label) in enumerate(tiny.moods_rows(120)):
            words = text.split()
            random.Random(i).shuffle(words)
            other = text if i % 10 == 0 else " ".join(words)  # some are the very same text
            writer.writerow([text, other, label, 5 if label == "positive" else 1])
    recipe["data"]["train"] = str(path)
    recipe["task"] = {
        "type": "multitask",
        "tasks": {
            "mood": {"type": "classification"},
            "near": {"type": "embedding", "data": {"text_pair": "other", "label": "none"}},
        },
    }
    recipe["evaluation"]["baselines"] = []
    return recipe


@pytest.mark.parametrize("label", ["none", "score"])
def test_the_loss_is_that_of_each_task_alone(near, label):
    near["task"]["tasks"]["near"]["data"]["label"] = label
    job = build(load_recipe(near))
    model, layout, task = job.loaded.model.eval(), job.loaded.layout, job.task
    updates = stream(job.tokens["train"], job.data.prepared.parts["train"], task, job.resolved.recipe.training, layout)
    batch = next(iter(updates)).batches[0]
    found = task.loss(layout)(model, batch)
    alone = torch.zeros(())
    for name in task.tasks:
        own, places = part_of(batch, name, member(batch, name))
        states = hidden_states(model, own, layout)
        alone = alone + task.tasks[name].loss(layout)(ready(model, name, states), own).sum
        if name == "near":
            assert sorted(own.layers["part"][own.segments.last].tolist()) == [0] * (len(own.rows) // 2) + [1] * (len(own.rows) // 2)
    assert float(found.sum.detach()) == pytest.approx(float(alone.detach()), rel=1e-4)
    assert found.weight == len(set(batch.rows)), "examples, not texts"
    found.sum.backward()
    mine = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    alone.backward()
    theirs = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(mine, theirs, strict=True))


@pytest.mark.parametrize("order", [("mood", "near"), ("near", "mood")])
def test_figures_are_those_of_the_embedding_alone(near, order):
    """Whatever the order of the tasks, and where a text and its other are the very same."""
    alone = {**near, "task": {"type": "embedding"}, "data": {**near["data"], **near["task"]["tasks"]["near"]["data"]}}
    near["task"]["tasks"] = {n: near["task"]["tasks"][n] for n in order}
    near["training"]["max_steps"] = alone["training"]["max_steps"] = 1
    near["evaluation"] |= {"metric": "loss"}
    run = luthier.train(near)
    single = luthier.train({**alone, "output": {**near["output"], "name": "alone"}})
    both, one = run.scores["methods"]["base"], single.scores["methods"]["base"]
    tested = {p["key"] for p in run.lines("predictions/test.jsonl") if "near" in p}
    assert tested
    if tested == {p["key"] for p in single.lines("predictions/test.jsonl")}:
        assert both["near.ndcg@10"]["value"] == pytest.approx(one["ndcg@10"]["value"])
    assert both["near.recall@1"]["n"] == len([p for p in run.lines("predictions/test.jsonl") if "near" in p])


def test_it_learns_and_answers_again(near):
    near["task"]["tasks"]["near"] = {"type": "embedding", "partners": 2}  # near are texts of one mood
    near["training"] |= {"epochs": 6, "learning_rate": 5e-3}
    run = luthier.train(near)
    before, after = run.scores["methods"]["base"], run.scores["methods"]["model"]
    assert after["near.ndcg@10"]["value"] > before["near.ndcg@10"]["value"] + 0.2
    assert after["mood.accuracy"]["value"] > 0.8
    (said,) = luthier.predict(run, [tiny.moods_rows(1)[0][0]])
    assert len(said["near"]["vector"]) == 32
    assert said["mood"]["label"] == tiny.moods_rows(1)[0][1]
    again = luthier.evaluate(run)
    again = again[0] if isinstance(again, tuple) else again
    assert again["near.ndcg@10"]["value"] == pytest.approx(after["near.ndcg@10"]["value"])
    found, _ = luthier.compare(run, run)
    assert all(value == (0.0, 0.0, 0.0) for value in found.differences.values())


def test_each_task_reads_a_row_in_its_own_prompt_and_columns(near):
    """In training and in prediction, whichever comes first."""
    near["task"]["tasks"] = {
        "mood": {"type": "classification", "prompt": "we found {text}"},
        "other": {"type": "classification", "prompt": "they found {text}", "data": {"text": "other"}},
    }
    job = build(load_recipe(near))
    (record,) = [job.task.texts({"text": "a film", "other": "a meal"})]
    assert {n: r.text for n, r in record.target.items()} == {"mood": "we found a film", "other": "they found a meal"}
    assert "other: " in job.task.texts({"text": "a film"})
    run = luthier.train(near)
    rows = [{"text": "so lovely", "other": "so awful"}, {"text": "so lovely", "other": "so lovely"}]
    first, second = luthier.predict(run, rows)
    assert first["mood"] == second["mood"]
    assert first["other"]["scores"] != second["other"]["scores"]


def test_targets_stay_with_their_rows_when_a_row_goes_to_quarantine(recipe, tmp_path):
    """Rows that only the tokenizer can refuse are not counted when targets are laid beside examples."""
    from luthier.data.tokens import Encoded

    path = tmp_path / "rows.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["text", "label", "size"], *([t, label, len(t.split())] for t, label in tiny.moods_rows(60))])
    recipe["data"] = {"train": str(path), "max_bad_share": 0.5}
    recipe["task"] = {
        "type": "multitask",
        "tasks": {"mood": "classification", "size": {"type": "classification", "kind": "regression", "data": {"label": "size"}}},
    }
    recipe["evaluation"]["baselines"] = []
    from luthier.workflow.dataset import dataset

    resolved = load_recipe(recipe)
    found = dataset(resolved)
    records = found.prepared.parts["train"]
    for task in found.task.tasks.values():
        real = task.encode

        def some(own, *args, real=real, **more):
            encoded = real(own[2:], *args, **more)
            return Encoded(encoded.tokens.__class__(encoded.tokens.table, 0, None), {0: "no", 1: "no"})

        task.encode = some
    tokenizer = tiny.tokenizer()
    encoded = found.task.encode(records, tokenizer, config=None, max_length=32, train=True)
    kept = [r for i, r in enumerate(records) if i not in encoded.rejected]
    assert set(encoded.rejected) == {0, 1}
    sizes = found.task.targets(kept)["size.labels"].reshape(-1).tolist()
    for example, size in zip(encoded.tokens.examples(), sizes, strict=True):
        assert len(example["input_ids"]) - 2 == size
