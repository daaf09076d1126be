"""Several tasks in one model: the same loss and gradient as each alone, one pass for a text of both, and a folder that answers again."""

from __future__ import annotations

import copy
import csv

import numpy as np
import pytest
import torch

import luthier
from luthier.errors import RecipeError
from luthier.inference.predict import outputs
from luthier.models.batch import within_budget
from luthier.models.forward import hidden_states, pool
from luthier.models.several import member, part_of, ready
from luthier.recipe import load_recipe
from luthier.runs.store import Run
from luthier.workflow.build import build
from luthier.workflow.events import Stepped
from luthier.workflow.stream import stream
from tests import tiny


@pytest.fixture
def two(recipe, tmp_path):
    """Two labels a text: its mood, and whether it is long."""
    path = tmp_path / "two.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "size"])
        writer.writerows([t, label, "long" if len(t.split()) > 7 else "short"] for t, label in tiny.moods_rows(160))
    recipe["data"]["train"] = str(path)
    recipe["task"] = {
        "type": "multitask",
        "tasks": {"mood": "classification", "size": {"type": "classification", "data": {"label": "size"}, "weight": 0.5}},
    }
    recipe["evaluation"]["baselines"] = []
    return recipe


def test_the_loss_is_that_of_each_task_alone(two):
    job = build(load_recipe(two))
    model, layout = job.loaded.model.eval(), job.loaded.layout
    batch = next(
        iter(stream(job.tokens["train"], job.data.prepared.parts["train"], job.task, job.resolved.recipe.training, layout))
    ).batches[0]
    assert {"of.mood", "of.size"} <= set(batch.layers)
    found = job.task.loss(layout)(model, batch)
    states = hidden_states(model, batch, layout)
    alone = 0.0
    for name, weight in (("mood", 1.0), ("size", 0.5)):
        pooled = states[batch.segments.starts]
        logits = model.head[name](pooled)
        alone = alone + weight * torch.nn.functional.cross_entropy(logits, batch.targets[f"{name}.labels"], reduction="sum")
    assert found.weight == batch.segments.count
    assert abs(float(found.sum.detach()) - float(alone.detach())) < 1e-4
    found.sum.backward()
    mine = [p.grad.clone() for p in model.parameters() if p.grad is not None]
    model.zero_grad()
    alone.backward()
    theirs = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.allclose(a, b, atol=1e-5) for a, b in zip(mine, theirs, strict=True))


def test_a_task_sees_its_own_segments_alone(two):
    two["curriculum"] = {"type": "mixture", "mixing": "uniform"}
    job = build(load_recipe(two))
    layout, model = job.loaded.layout, job.loaded.model.eval()
    updates = stream(
        job.tokens["train"], job.data.prepared.parts["train"], job.task, job.resolved.recipe.training, layout, course=job.course
    )
    batch = next(iter(updates)).batches[0]
    places = [set(member(batch, n).tolist()) for n in ("mood", "size")]
    assert all(places)
    assert not places[0] & places[1]
    own, where = part_of(batch, "size", member(batch, "size"))
    states = hidden_states(model, batch, layout)
    alone = hidden_states(model, own, layout)
    assert torch.allclose(states[where], alone, atol=1e-5)
    assert torch.equal(own.input_ids, batch.input_ids[where])
    assert torch.allclose(hidden_states(ready(model, "size", states[where]), own, layout), alone, atol=1e-5)


def test_evaluation_runs_the_trunk_once_and_says_what_each_task_alone_would(two):
    """Against a pass of the trunk for each task; texts of both tasks, and of one, in batches of several sizes."""
    two["task"]["tasks"]["size"]["data"]["limit"] = 100
    job = build(load_recipe(two))
    model, layout, tokens = job.loaded.model.eval(), job.loaded.layout, job.tokens["train"]
    records, passes = job.data.prepared.parts["train"], []
    model.trunk.register_forward_hook(lambda *_: passes.append(1))
    for budget in (64, 4096):
        passes.clear()
        together = outputs(model, tokens, layout, answer=job.task.answer(layout), max_tokens=budget, combine=job.task.combine(records))
        assert len(passes) == len(list(within_budget(range(len(tokens)), tokens.lengths(), budget, longest_first=True)))
        found = []
        for name, task in job.task.tasks.items():
            own = tokens.marked(f"of.{name}")

            def alone(model, batch, name=name, task=task):
                part, places = part_of(batch, name, member(batch, name))
                return task.answer(layout)(ready(model, name, hidden_states(model, batch, layout)[places]), part)

            found.append(outputs(model, tokens.at(own), layout, answer=alone, max_tokens=budget))
        assert 0 < len(tokens.marked("of.size")) < len(tokens)
        apart = job.task.combine(records)(found, [tokens.owner[tokens.marked(f"of.{name}")] for name in job.task.tasks])
        assert np.allclose(together, apart, atol=1e-5)
        gold = job.task.gold(records)
        assert job.task.scores(gold, together) == pytest.approx(job.task.scores(gold, apart), abs=1e-5)


def test_it_trains_and_answers_again(two):
    two["training"] |= {"epochs": 20}
    run = luthier.train(two)
    scores = run.scores["methods"]["model"]
    assert scores["mood.accuracy"]["value"] > 0.6
    assert abs(scores["mean"]["value"] - (scores["mood.accuracy"]["value"] + scores["size.accuracy"]["value"]) / 2) < 1e-9
    (said,) = luthier.predict(run, [tiny.moods_rows(1)[0][0]])
    assert set(said) == {"mood", "size"}
    assert said["size"]["label"] in ("long", "short")
    again = luthier.evaluate(run)[0] if isinstance(luthier.evaluate(run), tuple) else luthier.evaluate(run)
    assert again["mood.accuracy"]["value"] == scores["mood.accuracy"]["value"]


def test_uncertainty_is_learned_and_saved(two):
    two["task"]["weighing"] = "uncertainty"
    run = luthier.train(two)
    from safetensors.torch import load_file

    kept = load_file(run.model / "head.safetensors")
    moved = [float(v) for n, v in kept.items() if n.startswith("log_variance")]
    assert len(moved) == 2
    assert any(abs(v) > 1e-4 for v in moved)


@pytest.mark.parametrize("kind", ["sequential", "replay"])
def test_stages_are_measured(two, kind):
    two["curriculum"] = {"type": kind, "order": ["size", "mood"]}
    run = luthier.train(two)
    found = run.scores["stages"]
    assert found["stages"] == ["size", "mood"]
    assert len(found["scores"]["size"]) == 2
    assert abs(found["backward_transfer"] - (found["scores"]["size"][1] - found["scores"]["size"][0])) < 1e-9
    assert "forward_transfer" in found
    assert "Stage by stage" in run.report.read_text(encoding="utf-8")


def test_a_stopped_sequence_goes_on_to_the_same_weights(two, tmp_path):

    two["curriculum"] = "sequential"
    whole = luthier.train(two)

    class Stop(Exception):
        pass

    def stop(event):
        if isinstance(event, Stepped) and event.report.step == whole.facts["plan"]["total_updates"] - 2:
            raise Stop

    two["checkpoints"] = {"every_steps": 1}
    two["output"] = {**two["output"], "name": "again"}
    with pytest.raises(Stop):
        luthier.train(two, listener=stop)
    (folder,) = (tmp_path / "runs").glob("again*")
    resumed = luthier.resume(Run(folder))
    assert resumed.facts["weights_sha256"] == whole.facts["weights_sha256"]
    assert resumed.scores["stages"] == whole.scores["stages"]


def test_tasks_that_cannot_share_a_model_are_refused(two):
    two["task"]["tasks"]["mood"] = "causal"
    with pytest.raises(RecipeError, match="cannot share one model"):
        luthier.train(two)


@pytest.mark.parametrize(("way", "method"), [("l2sp", "full"), ("l2sp", "lora"), ("ewc", "full"), ("distill", "full"), ("soup", "full")])
def test_what_was_learned_in_a_stage_is_held_and_a_stopped_sequence_goes_on(two, tmp_path, way, method):
    two["curriculum"] = {"type": "sequential", "order": ["size", "mood"]}
    two["method"] = method
    plain = luthier.train(two)
    two["retention"] = {"type": way, **({"weight": 0.5} if way == "soup" else {"strength": 1000.0})}
    two["output"] = {**two["output"], "name": "whole"}
    whole = luthier.train(two)
    assert whole.facts["weights_sha256"] != plain.facts["weights_sha256"]

    class Stop(Exception):
        pass

    def stop(event):
        if isinstance(event, Stepped) and event.report.step == whole.facts["plan"]["total_updates"] - 2:
            raise Stop

    two["checkpoints"] = {"every_steps": 1}
    two["output"] = {**two["output"], "name": "again"}
    with pytest.raises(Stop):
        luthier.train(two, listener=stop)
    (folder,) = (tmp_path / "runs").glob("again*")
    assert luthier.resume(Run(folder)).facts["weights_sha256"] == whole.facts["weights_sha256"]


def test_heads_of_earlier_stages_go_on_answering_alike(two):
    """T^2 KL of the head that has learned, for the rows of both tasks, and its gradient, against both models run by hand."""
    two["curriculum"] = {"type": "sequential", "order": ["size", "mood"]}
    two["retention"] = {"type": "distill", "strength": 3.0, "temperature": 2.0}
    job = build(load_recipe(two))
    model, layout, way = job.loaded.model.eval(), job.loaded.layout, job.retention
    batch = next(
        iter(stream(job.tokens["train"], job.data.prepared.parts["train"], job.task, job.resolved.recipe.training, layout))
    ).batches[0]
    way.begin(job.start)
    assert way.penalty(model, batch) is None, "no head has learned"
    way.turn(job.start, "size", lambda: [])
    old = copy.deepcopy(model)
    with torch.no_grad():
        for p in model.parameters():
            p += 0.05 * torch.randn(p.shape, generator=torch.Generator().manual_seed(len(p.shape)))

    def answers(of):
        return of.head["size"](pool(hidden_states(of, batch, layout), batch.segments, layout.pooling))

    model.zero_grad()
    way.penalty(model, batch).backward()
    got = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with torch.no_grad():
        target = torch.softmax(answers(old) / 2.0, 1)
    kl = torch.nn.functional.kl_div(torch.log_softmax(answers(model) / 2.0, 1), target, reduction="batchmean")
    (3.0 * 4.0 * kl).backward()
    wanted = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    assert got.keys() == wanted.keys()
    assert float(kl.detach()) > 1e-4
    assert all(torch.allclose(got[n], wanted[n], atol=1e-6, rtol=1e-4) for n in wanted)


def test_names_that_modules_have_are_refused(two):
    two["task"]["tasks"] = {"type": two["task"]["tasks"]["mood"], "size": two["task"]["tasks"]["size"]}
    with pytest.raises(RecipeError, match="'type' cannot name a task"):
        load_recipe(two)


def test_a_metric_of_any_task_may_choose(two):
    two["evaluation"] = {**two["evaluation"], "metric": "size.accuracy"}
    assert build(load_recipe(two)).plan.metric == "size.accuracy"


def test_a_head_that_has_learned_is_held_where_it_is(two):
    two["curriculum"] = {"type": "sequential", "order": ["size", "mood"]}
    two["retention"] = "l2sp"
    job = build(load_recipe(two))
    way = job.retention
    way.begin(job.start)
    assert not any(n.startswith("head.") for n in way.anchors)
    way.turn(job.start, "size", lambda: [])
    heads = {n for n, _ in job.loaded.model.named_parameters() if n.startswith("head.")}
    assert {n for n in way.anchors if n in heads} == {n for n in heads if n.startswith("head.size.")}
    assert way.fresh == {n for n in heads if n.startswith("head.mood.")}
    again = type(way)(way.options)
    again.begin(job.start)
    again.load_state(way.state())
    assert again.anchors.keys() == way.anchors.keys()
    assert again.fresh == way.fresh


def test_a_soup_is_mixed_at_the_end_of_every_stage(two):
    two["curriculum"] = {"type": "sequential", "order": ["size", "mood"]}
    two["retention"] = {"type": "soup", "steps": 4}
    notes: list[str] = []
    run = luthier.train(two, listener=lambda e: notes.append(getattr(e, "text", "")))
    assert sum("of the trained weights" in n for n in notes) == 2
    found = run.scores["stages"]
    assert len(found["mixes"]) == 2
    assert found["mixes"][-1] == run.facts["mix"]["weight"]
    assert found["scores"]["mood"][1] == pytest.approx(run.scores["methods"]["model"]["mood.accuracy"]["value"]), "scored as mixed"
    assert "share of the stage" in run.report.read_text(encoding="utf-8")


def test_adapters_of_stages_are_not_mixed(two):
    two |= {"curriculum": "sequential", "retention": "soup", "method": "lora"}
    with pytest.raises(RecipeError, match="cannot mix adapters"):
        luthier.train(two)


def test_a_dynamic_mixture_follows_the_losses(two):
    two["curriculum"] = {"type": "mixture", "mixing": "dynamic"}
    two["training"]["epochs"] = 4
    run = luthier.train(two)
    counts: dict[int, float] = {}
    for line in run.lines("log.jsonl"):
        counts[line["epoch"]] = counts.get(line["epoch"], 0.0) + line["parts"].get("mood.examples", 0.0) * line["examples"]
    assert round(counts[0]) == round(counts[1]), "the first epoch sets the measure"
    losses = [(e["mood.loss"], e["size.loss"]) for e in run.lines("evaluations.jsonl")]
    left = [losses[1][i] / losses[0][i] for i in (0, 1)]
    assert left[0] != left[1]
    assert abs(counts[2] - 2 * counts[0] * left[0] / sum(left)) < 2
