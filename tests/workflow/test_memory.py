"""The memory plan: counts are exact, bytes are those of torch's own tensors, and what is said to fit is what was asked for."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

import luthier
from luthier.cli.main import root
from luthier.errors import LuthierError, MemoryShortage
from luthier.models import shadow
from luthier.recipe import load_recipe
from luthier.recipe.sections import Recipe
from luthier.workflow import footprint as measuring
from luthier.workflow import memory as planning
from luthier.workflow.build import build
from luthier.workflow.footprint import Facts, Footprint, footprint
from luthier.workflow.memory import fit, memory, parse_size, table


@pytest.mark.parametrize(
    "method", ["full", "lora", "bitfit", "ia3", {"type": "freeze", "layers": 1}, {"type": "freeze", "head_only": True}]
)
def test_parameters_are_counted_without_weights(recipe, method):
    recipe["method"] = method
    resolved = load_recipe(recipe)
    job = build(load_recipe(recipe))
    found = memory(resolved).footprint
    assert (found.trainable, found.parameters) == (job.facts()["trainable"], job.facts()["parameters"])


def test_weights_and_moments_are_those_of_the_arithmetic(recipe):
    one = memory(load_recipe(recipe)).footprint
    assert 4 * one.parameters <= one.weights < 4 * one.parameters + (1 << 16)
    assert 8 * one.trainable <= one.kept < 8 * one.trainable + (1 << 16)
    assert one.checkpoint >= 12 * one.trainable
    recipe["method"] = "lora"
    assert memory(load_recipe(recipe)).footprint.kept < one.kept


def test_checkpointing_takes_less_and_larger_batches_more(recipe, monkeypatch):
    recipe["evaluation"]["base_model"] = False
    monkeypatch.setattr(shadow, "COMPILED", 1)  # code for products of many sizes weighs more than so small a model
    recipe["training"]["batch_size"] = 64
    plain = memory(load_recipe(recipe)).footprint
    again = memory(load_recipe(recipe, overrides=["training.checkpointing=true"])).footprint
    small = memory(load_recipe(recipe, overrides=["training.max_tokens=100"])).footprint
    assert again.forward < plain.forward
    assert small.training < plain.training


def test_many_layers_are_a_straight_line(recipe, monkeypatch):
    found = measuring.facts(load_recipe(recipe))
    found.config.num_hidden_layers = 10
    line = measuring.footprint(found, found.resolved.recipe)
    monkeypatch.setattr(measuring, "DEEP", 10)
    whole = measuring.footprint(found, found.resolved.recipe)
    assert line.parameters == whole.parameters
    assert line.weights == whole.weights
    assert line.training == pytest.approx(whole.training, rel=0.05)


def test_nothing_real_is_left_behind(recipe):
    """After a plan a real training gives what it gave before."""
    first = luthier.train(recipe).facts["weights_digest"]
    memory(load_recipe(recipe))
    assert torch.nn.Linear(2, 2).to(torch.float64).weight.dtype == torch.float64
    assert luthier.train(recipe).facts["weights_digest"] == first


def test_the_table_and_the_fit_agree(recipe, monkeypatch):
    """Of the many ways each is measured once, on a model as small as can be: how much they take is not the question."""
    measured: dict[str, Footprint] = {}

    def once(found: Facts, recipe: Recipe) -> Footprint:
        key = recipe.model_dump_json()
        if key not in measured:
            measured[key] = footprint(found, recipe)
        return measured[key]

    monkeypatch.setattr(planning, "footprint", once)
    monkeypatch.setattr(measuring, "UPDATES", 1)
    recipe["data"]["limit"] = 30
    recipe["training"]["batch_size"] = 2
    recipe["model"]["layers"] = 1
    recipe["evaluation"]["base_model"] = False
    resolved = load_recipe(recipe)
    choices = table(resolved)
    assert {c.cells()[0] for c in choices} >= {"full", "freeze", "lora"}
    assert fit(resolved, 1 << 40).cells()[:3] == ("full", "fp32", "no")
    monkeypatch.setattr(planning, "METHODS", ("lora",))
    monkeypatch.setattr(planning, "BUDGETS", (1, 4))
    with pytest.raises(MemoryShortage, match="nothing fits"):
        fit(resolved, 1 << 20)


@pytest.mark.parametrize(("text", "size"), [("4GiB", 4 << 30), ("900m", 900 << 20), ("1.5 GB", 3 << 29), ("123", 123)])
def test_sizes_are_read(text, size):
    assert parse_size(text) == size


def test_other_sizes_are_refused():
    with pytest.raises(LuthierError, match="is no size"):
        parse_size("much")


def test_check_says_what_it_takes_and_writes_the_recipe_that_fits(recipe, tmp_path):
    path, out = tmp_path / "recipe.json", tmp_path / "fits.yaml"
    path.write_text(json.dumps(recipe))
    shown = CliRunner().invoke(root, ["check", str(path)])
    assert shown.exit_code == 0, shown.output
    assert "memory    " in shown.output
    assert "trainable " in shown.output
    fitted = CliRunner().invoke(root, ["check", str(path), "--fit", "64GiB", "--out", str(out)])
    assert fitted.exit_code == 0, fitted.output
    assert "--set 'method={type: full}'" in fitted.output
    assert load_recipe(out).recipe.training.precision == "fp32"


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("attention", ["ragged", "padded"])
def test_checkpointing_changes_no_bit_of_the_loss(recipe, method, attention):
    recipe |= {"method": method}
    recipe["model"]["dropout"] = 0.2
    recipe["training"]["attention"] = attention
    plain = luthier.train(recipe)
    recipe["training"]["checkpointing"] = True
    again = luthier.train(recipe)
    assert again.lines("log.jsonl") == plain.lines("log.jsonl")
    assert again.facts["weights_digest"] == plain.facts["weights_digest"]
