"""Ways against forgetting side by side: real runs of every way, figures that follow from them, and the advice."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from luthier.cli.main import root
from luthier.errors import Interrupted, RecipeError
from luthier.evaluation.ways import Figures, advise, mean
from luthier.recipe import load_recipe
from luthier.runs.store import Run, every
from luthier.workflow.events import Stepped
from luthier.workflow.ways import IN_STAGES, changed, compare
from tests import tiny


@pytest.fixture
def staged(recipe, tmp_path):
    """A recipe of two tasks on the same words, one after the other."""
    path = tmp_path / "two.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label", "size"])
        writer.writerows([t, label, "long" if len(t.split()) > 7 else "short"] for t, label in tiny.moods_rows(120))
    recipe["data"]["train"] = str(path)
    recipe["task"] = {
        "type": "multitask",
        "tasks": {"mood": {"type": "classification"}, "size": {"type": "classification", "data": {"label": "size"}}},
    }
    recipe["curriculum"] = "sequential"
    recipe["training"] = {**recipe["training"], "epochs": 2, "threads": 1}
    recipe["evaluation"] = {"bootstrap": 100, "baselines": []}
    return recipe


def test_every_way_is_trained_and_compared(staged):
    found = compare(load_recipe(staged), ways=[*IN_STAGES, "replay+distill"])
    assert set(found.figures) == {*IN_STAGES, "replay+distill"} - set(found.left_out)
    assert set(found.left_out) <= {"freeze"}
    facts = json.loads((found.folder / "ways.json").read_text(encoding="utf-8"))
    assert facts["missing"] == 0
    for way, (only,) in ((w, f) for w, f in found.figures.items() if w != "joint"):
        (name,) = found.runs[way]
        run = Run(found.folder / name)
        stages = run.scores["stages"]
        lines = run.lines("stages.jsonl")
        assert only.loss == -stages["backward_transfer"]
        assert only.average == pytest.approx(stages["average"])
        own = [stages["scores"][n][i] - lines[0]["scores"][n] for i, n in enumerate(stages["stages"])]
        assert only.gain == pytest.approx(sum(own) / len(own))
        assert facts["ways"][way]["average"]["value"] == only.average
        assert not run.checkpoints.exists()
    joint, naive = (Run(found.folder / found.runs[w][0]).facts["plan"] for w in ("joint", "none"))
    assert joint["total_updates"] == naive["total_updates"]
    assert found.figures["joint"][0].loss == 0
    assert found.advice is not None
    page = found.page.read_text(encoding="utf-8")
    assert "<svg" in page
    assert f"We would choose <strong>{found.advice.way if found.advice.way != 'none' else 'no protection'}" in page


def test_a_comparison_goes_on_where_it_was(staged):
    ways = ["none", "replay"]
    steps: list[int] = []

    def stop(event) -> None:
        if isinstance(event, Stepped):
            steps.append(event.report.step)
            if len(steps) == 30:
                raise Interrupted("stopped by the test")

    with pytest.raises(Interrupted):
        compare(load_recipe(staged), ways=ways, listener=stop)
    before = {r.id: r.facts["status"] for r in every(next(Path(staged["output"]["folder"]).glob("*-ways")))}
    assert sorted(before.values()) == ["done", "interrupted"]
    pages = next(Path(staged["output"]["folder"]).glob("*-ways"))
    facts = json.loads((pages / "ways.json").read_text(encoding="utf-8"))
    assert (list(facts["ways"]), facts["missing"]) == (["none"], 1), "what is done is on the page already"
    assert "Trainings still to come: 1" in (pages / "ways.html").read_text(encoding="utf-8")
    again: list[str] = []
    found = compare(load_recipe(staged), ways=ways, listener=lambda e: again.append(type(e).__name__))
    assert {r for ids in found.runs.values() for r in ids} == set(before)
    assert 0 < again.count("Stepped") < 30, "the first way is not trained again"
    assert "still to come" not in found.page.read_text(encoding="utf-8")


def test_an_earlier_run_is_the_old(recipe, tmp_path):
    """Without stages the probes are what may be lost."""
    import luthier

    first = luthier.train(recipe)
    second = {
        **recipe,
        "model": str(first.folder),
        "evaluation": {**recipe.get("evaluation", {}), "probes": {"old": recipe["data"]["train"]}},
    }
    found = compare(load_recipe(second), ways=["l2sp", "lora"])
    assert set(found.figures) == {"none", "l2sp", "lora"}
    run = Run(found.folder / found.runs["l2sp"][0])
    (only,) = found.figures["l2sp"]
    steps: list[str] = []
    again = compare(load_recipe(second), ways=["l2sp", "lora"], listener=lambda e: steps.append(type(e).__name__))
    assert again.runs == found.runs
    assert "Stepped" not in steps, "what is there is not trained again"
    probe = run.scores["probes"]["old"]
    assert only.average is None
    assert len(run.scores["probes"]) > 0
    lost = [-p["difference"][p["metric"]]["value"] for p in run.scores["probes"].values()]
    assert only.loss == pytest.approx(sum(lost) / len(lost))
    assert probe["metric"] == "accuracy"


def test_what_has_nothing_to_lose_is_refused(recipe):
    with pytest.raises(RecipeError, match="nothing old to lose"):
        compare(load_recipe(recipe), ways=["l2sp"])


@pytest.mark.parametrize(
    ("ways", "said"),
    [
        ("l2ps", "did you mean l2sp"),
        ("replay", "for tasks in stages"),
        ("ewc+joint", "for tasks in stages"),
        ("l2sp+distill", "names two for one section"),
    ],
)
def test_unknown_ways_are_refused_by_the_command(recipe, tmp_path, ways, said):
    path = tmp_path / "recipe.json"
    path.write_text(json.dumps(recipe), encoding="utf-8")
    result = CliRunner().invoke(root, ["retention", str(path), "--ways", ways])
    assert isinstance(result.exception, RecipeError)
    assert said in str(result.exception)


def test_a_way_keeps_its_own_options_and_drops_the_others(staged):
    staged["retention"] = {"type": "distill", "strength": 3.0}
    staged["curriculum"] = {"type": "replay", "share": 0.4}
    resolved = load_recipe(staged)
    assert changed(resolved, "distill", seed=5).recipe.retention.strength == 3.0  # type: ignore[attr-defined]
    both = changed(resolved, "replay+l2sp", seed=5).recipe
    assert (both.curriculum.type, both.curriculum.share, both.retention.type, both.training.seed) == ("replay", 0.4, "l2sp", 5)
    plain = changed(resolved, "none", seed=5).recipe
    assert (plain.curriculum.type, plain.retention.type) == ("sequential", "none")


def figures(gain: float, loss: float, seconds: float = 1.0, average: float | None = None) -> list[Figures]:
    return [Figures(gain, loss, seconds, average)]


def test_advice():
    ways = {
        "none": figures(0.5, 0.2, average=0.7),
        "slow": figures(0.5, 0.05, 9.0, average=0.851),
        "quick": figures(0.5, 0.05, 2.0, average=0.85),
    }
    ways["joint"] = figures(0.5, 0.0, average=0.9)
    said = advise(ways)
    assert said.way == "quick"
    assert "slow did as well, and took longer" in said.why
    assert "0.900" in said.why
    assert advise({"none": figures(0.5, 0.001, average=0.9), "x": figures(0.5, 0.0, average=0.95)}).way == "none"
    nats = {"none": figures(0.2, 4.0), "half": figures(0.15, 1.0), "still": figures(0.0, 0.0)}
    assert advise(nats).way == "half", "at the naive rate, 4 nats are worth 0.2"
    assert advise({"none": figures(0.2, 0.1, average=0.8), "worse": figures(0.1, 0.0, average=0.7)}).way == "none"


def test_means_have_students_intervals():
    found = mean([0.7, 0.8, 0.9])
    assert (found.value, found.low, found.high) == pytest.approx(
        (0.8, 0.8 - 4.30265 * 0.1 / 3**0.5, 0.8 + 4.30265 * 0.1 / 3**0.5), abs=1e-5
    )
    assert mean([0.5]).low is None
