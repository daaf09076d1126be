"""Every field of every way of retention takes effect: the schemas are walked, none may be missing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import luthier
from luthier.errors import RecipeError
from luthier.recipe import load_recipe
from luthier.registry import RETENTION, RETENTION_OPTIONS
from tests import tiny
from tests.retention import world as sequences

CASES: dict[str, dict[str, Any]] = {
    "none": {},
    "l2sp": {"strength": 30.0, "head_strength": 30.0},
    "ewc": {"data": "{folder}/other.csv", "strength": 1e6, "rows": 3, "decay": 0.5},
    "distill": {"strength": 9.0, "temperature": 5.0, "on": "hidden", "data": "{folder}/other.csv"},
    "soup": {"weight": 0.3, "steps": 3},
}
SMALL = {"ewc": {"data": "{folder}/rows.csv"}, "distill": {"strength": 3.0}}
ELSEWHERE = {("ewc", "decay")}
"""Takes effect when a curriculum consolidates again: tests/retention/test_penalties.py."""
FIELDS = [(w, f) for w in RETENTION_OPTIONS.names() for f in RETENTION_OPTIONS.load(w).model_fields if f != "type"]


@pytest.fixture(scope="module")
def world(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("retention")
    sequences.write(folder / "rows.csv", tiny.moods_rows(48))
    sequences.write(folder / "other.csv", tiny.moods_rows(30, seed=3))
    sequences.classifier(folder / "learned", dropout=0.0)
    tiny.save("bert", folder / "bert")
    return folder


def seen(world: Path, way: str, options: dict[str, Any], *, fresh: bool) -> Any:
    """What a short training shows of its way of retention."""
    filled = {k: v.format(folder=world) if isinstance(v, str) else v for k, v in options.items()}
    run = luthier.train(
        {
            "data": dict.fromkeys(["train", "validation", "test"], str(world / "rows.csv")),
            "model": {"name": str(world / ("bert" if fresh else "learned"))}, "retention": {"type": way, **filled},
            "training": {"epochs": 2, "batch_size": 16, "threads": 1, "learning_rate": 0.01},
            "evaluation": {"bootstrap": 100, "base_model": False, "baselines": [], "restore_best": False}, "output": {"folder": str(world / "runs")},
        },
    )  # fmt: skip
    return [line["loss"] for line in run.lines("log.jsonl")], run.facts["weights_digest"], run.facts.get("mix")


PLAIN: dict[str, Any] = {}


def test_no_field_is_missing():
    assert set(CASES) == set(RETENTION_OPTIONS.names()) == set(RETENTION.names())
    assert [(w, f) for w, f in FIELDS if f not in CASES[w]] == []


@pytest.mark.parametrize(("way", "field"), [f for f in FIELDS if f not in ELSEWHERE])
def test_every_field_takes_effect(way, field, world):
    fresh = field == "head_strength"
    base = SMALL.get(way, {})
    key = f"{way} {fresh}"
    if key not in PLAIN:
        PLAIN[key] = seen(world, way, base, fresh=fresh)
    assert seen(world, way, {**base, field: CASES[way][field]}, fresh=fresh) != PLAIN[key]


def test_each_way_changes_a_training(world):
    found = [seen(world, way, SMALL.get(way, {}), fresh=False)[:2] for way in sorted(CASES)]
    assert len({weights for _, weights in found}) == len(found)


def test_the_section_is_read_like_that_of_the_method():
    recipe = load_recipe({"data": "x.csv", "retention": "l2sp"}, overrides=["retention.strength=0.5"])
    assert recipe.recipe.retention.model_dump() == {"type": "l2sp", "strength": 0.5, "head_strength": 0.01}
    assert load_recipe({"data": "x.csv"}).recipe.retention.type == "none"
    for section, said in (
        ("l2ps", "did you mean l2sp"),
        ({"type": "ewc", "rows": 0}, "retention.rows"),
        ({"type": "distill", "temprature": 1}, "did you mean retention.temperature"),
        ({"type": "soup", "weight": 1.5}, "retention.weight"),
    ):
        with pytest.raises(RecipeError, match=said):
            load_recipe({"data": "x.csv", "retention": section})


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"fail_if": {"stories": "drop > 0.1"}}, r"no probe 'stories'.*there are: general"),
        ({"fail_if": {"storeis": "drop > 0.1"}, "probes": {"stories": "s.txt"}}, "did you mean stories"),
        ({"fail_if": {"general": "drops by 2"}}, "write it like `drop > 0.02`"),
        ({"fail_if": {"general": "drop > -1"}}, "write it like"),
        ({"fail_if": {"general": "drop > 1"}, "general_probe": False}, "no probe 'general'"),
        ({"fail_if": {"earlier:x-1": "drop > 1"}, "earlier_probe": False}, "no probe 'earlier:x-1'"),
        ({"probes": {"general": "x.csv"}}, "a probe of Luthier's own"),
    ],
)
def test_limits_are_checked_with_the_recipe(section, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe({"data": "x.csv", "evaluation": section})


def test_limits_are_read():
    from luthier.recipe.limit import limit

    assert limit("drop > 0.02") == ("drop", 0.02)
    assert limit(" rise>1e-3 ") == ("rise", 0.001)
    assert load_recipe({"data": "x.csv", "evaluation": {"fail_if": {"earlier:a-1": "drop > .5"}}}).recipe.evaluation.fail_if
