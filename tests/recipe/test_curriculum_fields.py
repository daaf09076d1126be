"""Every field of the curriculum changes which rows come when, and every field of several tasks what is learned."""

from __future__ import annotations

import copy
import csv
from typing import Any

import pytest

import luthier
from luthier.recipe import load_recipe
from luthier.recipe.curriculum import Curriculum
from luthier.recipe.tasks.multitask import Member, MultitaskOptions
from luthier.workflow.build import build
from tests import tiny

# field -> (the other fields of both sides, the changed value)
CASES: dict[str, tuple[dict[str, Any], Any]] = {
    "type": ({}, "sequential"),
    "order": ({"type": "sequential"}, ["size", "few", "mood"]),
    "mixing": ({"type": "mixture"}, "uniform"),
    "temperature": ({"type": "mixture", "mixing": "temperature"}, 9.0),
    "new": ({"type": "progressive"}, "mood"),
    "start": ({"type": "progressive"}, 0.4),
    "end": ({"type": "progressive"}, 0.5),
    "rise": ({"type": "progressive"}, "cosine"),
    "share": ({"type": "replay"}, 0.5),
    "reservoir": ({"type": "replay"}, 3),
    "selection": ({"type": "replay", "reservoir": 20}, "balanced"),
}
TASKS: dict[str, Any] = {"weighing": "uncertainty", "tasks": None, "type": None}
MEMBER = {"data": {"label": "other"}, "weight": 3.0, "metric": "f1_macro", "options": None, "type": None}


@pytest.fixture
def three(recipe, tmp_path):
    """Three tasks of unequal size over the same file."""
    path = tmp_path / "three.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "size", "other", "few"])
        for i, (text, label) in enumerate(tiny.moods_rows(120)):
            writer.writerow([text, label, "long" if len(text.split()) > 7 else "short", "odd" if i % 2 else "even", i % 3])
    recipe["data"]["train"] = str(path)
    recipe["task"] = {
        "type": "multitask",
        "tasks": {
            "mood": {"type": "classification", "data": {"limit": 20}},
            "size": {"type": "classification", "data": {"label": "size"}},
            "few": {"type": "classification", "data": {"label": "few", "limit": 10}},
        },
    }
    recipe["evaluation"] |= {"baselines": [], "base_model": False}
    return recipe


def order(recipe: dict[str, Any]) -> list[list[int]]:
    course = build(load_recipe(recipe)).course
    return [course.rows(e) for e in range(course.epochs)]


def test_every_field_has_a_case():
    assert set(CASES) == set(Curriculum.model_fields)
    assert set(TASKS) == set(MultitaskOptions.model_fields)
    assert set(MEMBER) == set(Member.model_fields)


@pytest.mark.parametrize("name", sorted(CASES))
def test_changing_it_changes_the_order(three, name):
    others, value = CASES[name]
    before = order({**three, "curriculum": others})
    assert order({**three, "curriculum": others}) == before
    assert order({**three, "curriculum": {**others, name: value}}) != before


@pytest.mark.parametrize("name", ["data", "weight"])
def test_a_field_of_a_task_changes_what_is_learned(three, name):
    changed = copy.deepcopy(three)
    changed["task"]["tasks"]["size"][name] = MEMBER[name]
    losses = [[line["loss"] for line in luthier.train(r).lines("log.jsonl")] for r in (three, changed)]
    assert losses[0] != losses[1]


def test_a_tasks_main_score_changes_the_mean(three):
    changed = copy.deepcopy(three)
    changed["task"]["tasks"]["size"]["metric"] = MEMBER["metric"]
    means = [build(load_recipe(r)) for r in (three, changed)]
    assert [job.task.mains["size"] for job in means] == ["accuracy", "f1_macro"]
    run = luthier.train(changed)
    scores = {n: s["value"] for n, s in run.scores["methods"]["model"].items()}
    assert scores["mean"] == pytest.approx((scores["mood.accuracy"] + scores["size.f1_macro"] + scores["few.accuracy"]) / 3)
    assert run.scores["mains"] == ["mood.accuracy", "size.f1_macro", "few.accuracy"]


def test_weighing_changes_what_is_learned(three):
    changed = copy.deepcopy(three)
    changed["task"]["weighing"] = TASKS["weighing"]
    losses = [[line["loss"] for line in luthier.train(r).lines("log.jsonl")] for r in (three, changed)]
    assert losses[0] != losses[1]
