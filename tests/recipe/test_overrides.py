"""`--set` reaches places in lists, says what it cannot reach, and leaves the caller's own recipe alone."""

from __future__ import annotations

import copy

import pytest

from luthier.errors import RecipeError
from luthier.recipe import load_recipe

RECIPE = {
    "data": {"train": ["a.jsonl", "b.jsonl"], "clean": ["whitespace", {"type": "length", "at_least": 2}]},
    "task": {"type": "policy", "rewards": ["length", {"type": "regex", "pattern": "x"}]},
    "model": "starter",
}


def test_places_in_lists_are_reached():
    before = copy.deepcopy(RECIPE)
    given = [
        "task.rewards.1.pattern=y",
        "task.rewards.0.weight=0.5",
        "data.clean.1.at_least=7",
        "data.train.1=c.jsonl",
        "data.clean.0=unicode",
    ]
    found = load_recipe(RECIPE, overrides=given)
    recipe = found.recipe
    assert recipe.task.rewards[1].pattern == "y"
    assert (recipe.task.rewards[0].type, recipe.task.rewards[0].weight) == ("length", 0.5)
    assert [recipe.data.clean[0].type, recipe.data.clean[1].at_least] == ["unicode", 7]
    assert recipe.data.train == ["a.jsonl", "c.jsonl"]
    assert found.sources["data.train"] == found.sources["task.rewards"] == "flag"
    assert found.sources["model"] == "python"
    assert before == RECIPE


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("data.train.2=c.jsonl", "data.train is a list with the places 0, 1, not '2'"),
        ("task.rewards.first.weight=1", "task.rewards is a list with the places 0, 1, not 'first'"),
        ("data.train.0.x=1", "did you mean|no such|data.train"),
        ("task.rewards.1.patern=y", "did you mean task.rewards.1.pattern"),
    ],
)
def test_what_cannot_be_reached_is_said(given, said):
    with pytest.raises(RecipeError, match=said):
        load_recipe(RECIPE, overrides=[given])
