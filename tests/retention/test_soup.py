"""A soup at 0 and 1 is the start and the end to the bit; between them it is a line; the weight is chosen by what it costs."""

from __future__ import annotations

import pytest
import torch

from luthier.models.forward import hidden_states
from luthier.models.heads import Head
from luthier.registry import RETENTION_OPTIONS
from luthier.retention.retention import Start, moving
from luthier.retention.soup import Soup
from tests import tiny
from tests.retention import world
from tests.retention.test_penalties import batch_of, classes_loss, shake


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("soup")
    for family in ("bert", "llama"):
        tiny.save(family, folder / family)
    return folder


def soup(loaded, method, **options) -> Soup:
    made = Soup(RETENTION_OPTIONS.load("soup")(**options))
    start = Start(loaded, method, classes_loss(loaded.layout))
    made.check(start)
    made.begin(start)
    return made


def bits(model) -> dict[str, bytes]:
    return {n: t.detach().clone().reshape(-1).view(torch.uint8).numpy().tobytes() for n, t in model.state_dict().items()}


def never():
    raise AssertionError("a weight that was asked for is not judged")


@pytest.mark.parametrize("weight", [0.0, 0.3, 1.0])
def test_ends_are_exact_and_a_new_head_stays(models, weight):
    loaded, method = world.load(models / "bert", world.CLASSES)
    with torch.no_grad():
        loaded.model.bert.encoder.layer[0].output.dense.bias[:2] = torch.tensor([-0.0, 1e-42])
    made, start = soup(loaded, method, weight=weight), bits(loaded.model)
    begun = {n: p.detach().clone() for n, p in moving(loaded.model).items()}
    shake(loaded.model)
    end = bits(loaded.model)
    ended = {n: p.detach().clone() for n, p in moving(loaded.model).items()}
    assert made.finish(loaded.model, judge=never).weight == weight
    now = bits(loaded.model)
    for name, parameter in moving(loaded.model).items():
        if name.startswith("classifier."):
            assert now[name] == end[name]
        elif weight in (0.0, 1.0):
            assert now[name] == (start if weight == 0 else end)[name]
        else:
            torch.testing.assert_close(parameter.detach(), begun[name] + weight * (ended[name] - begun[name]))


@pytest.mark.parametrize("kind", ["lora", "ia3", "vera", "adalora"])
def test_adapters_are_scaled(models, kind):
    loaded, method = world.load(models / "llama", Head("causal"), kind, **({} if kind in ("ia3",) else {"rank": 4}))
    model, batch = loaded.model.eval(), batch_of()
    with torch.no_grad():
        base = hidden_states(model, batch, loaded.layout)
        made = soup(loaded, method, weight=0.5)
        shake(model, 0.1)
        end, whole = bits(model), hidden_states(model, batch, loaded.layout)
        deltas = [m.get_delta_weight("default").clone() for m in model.modules() if hasattr(m, "get_delta_weight")]
        assert not torch.equal(whole, base)
        for name, value in made.values.items():
            dict(model.named_parameters())[name].copy_(value)
        assert torch.equal(hidden_states(model, batch, loaded.layout), base)
    loaded, method = world.load(models / "llama", Head("causal"), kind, **({} if kind in ("ia3",) else {"rank": 4}))
    model = loaded.model.eval()
    made = soup(loaded, method, weight=0.5)
    shake(model, 0.1)
    assert bits(model) == end
    made.finish(model, judge=never)
    with torch.no_grad():
        half = [m.get_delta_weight("default") for m in model.modules() if hasattr(m, "get_delta_weight")]
    for a, b in zip(half, deltas, strict=True):
        torch.testing.assert_close(a, b / 2)
    assert kind == "ia3" or deltas


def test_the_weight_of_least_loss_on_validation_and_probes_is_kept(models):
    loaded, method = world.load(models / "bert", world.CLASSES)
    made = soup(loaded, method, steps=4)
    start = next(iter(moving(loaded.model).values())).detach().clone()
    shake(loaded.model)
    end = next(iter(moving(loaded.model).values())).detach().clone()

    def judge() -> dict[str, float]:
        now = next(iter(moving(loaded.model).values())).detach()
        share = float(((now - start) * (end - start)).sum() / (end - start).square().sum())
        return {"validation": (share - 0.9) ** 2, "old": (share - 0.6) ** 2, "older": (share - 0.6) ** 2}

    mix = made.finish(loaded.model, judge=judge)
    assert mix.weight == 0.75
    assert sorted(mix.tried) == [0.0, 0.25, 0.5, 0.75, 1.0]
    torch.testing.assert_close(next(iter(moving(loaded.model).values())).detach(), torch.lerp(start, end, 0.75))
