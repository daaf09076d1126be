"""The optimizer, schedules, update stream and loop against their references."""

from __future__ import annotations

import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from luthier.errors import ModelError
from luthier.models import dropout, embedding
from luthier.models.adapters.method import layer_rates
from luthier.models.batch import Loss, within_budget
from luthier.recipe.sections import Training
from luthier.training.batches import UpdateStream
from luthier.training.loop import train
from luthier.training.optim import Optimizer
from luthier.training.rules import stochastically_rounded
from luthier.training.schedule import Schedule


def small() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("dense", nn.Linear(6, 5))
    model.add_module("norm", nn.LayerNorm(5))
    model.add_module("out", nn.Linear(5, 1))
    return model


def test_steps_equal_torch_adamw_with_clipping():
    ours, plain = small(), small()
    optimizer = Optimizer(ours, Training(weight_decay=0.1, max_grad_norm=0.5))
    groups = [{"params": [p for p in plain.parameters() if (p.ndim > 1) is on], "weight_decay": d} for on, d in ((True, 0.1), (False, 0.0))]
    reference = torch.optim.AdamW(groups, lr=1e-2)
    for step in range(5):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        ours(x).square().sum().backward()
        plain(x).square().mean().backward()
        norm = optimizer.gradient_norm(8.0)
        assert norm == pytest.approx(float(nn.utils.clip_grad_norm_(plain.parameters(), 0.5)), rel=1e-5)
        optimizer.step(learning_rate=1e-2, weight=8.0, norm=norm)
        reference.step()
        optimizer.clear()
        reference.zero_grad()
    for a, b in zip(ours.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(a, b, atol=1e-6)


def test_bf16_weights_follow_their_fp32_masters():
    exact, rounded = small(), small().to(torch.bfloat16)
    one, two = (Optimizer(m, Training()) for m in (exact, rounded))
    for step in range(50):
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step))
        for model, optimizer in ((exact, one), (rounded, two)):
            model(x.to(next(model.parameters()).dtype)).float().square().sum().backward()
            optimizer.step(learning_rate=1e-5, weight=8.0, norm=0.1)
            optimizer.clear()
    state = two.state_dict()
    masters = {n: state[f"master:{n}"] for n, _ in rounded.named_parameters()}
    start = dict(small().named_parameters())
    for name, parameter in rounded.named_parameters():
        assert torch.equal(parameter, masters[name].bfloat16())
    moved = (masters["dense.weight"] - start["dense.weight"].bfloat16().float()).abs().max()
    assert moved > 1e-5, "updates smaller than bf16 can hold must add up in the masters"


def test_masters_follow_weights_that_were_changed_from_outside():
    """Else the next step would put the old ones back."""
    model = small().to(torch.bfloat16)
    optimizer = Optimizer(model, Training())
    with torch.no_grad():
        model.dense.weight.fill_(0.5)
    optimizer.follow()
    model(torch.ones(2, 6, dtype=torch.bfloat16)).sum().backward()
    optimizer.step(learning_rate=1e-4, weight=2.0, norm=optimizer.gradient_norm(2.0))
    assert torch.allclose(model.dense.weight.float(), torch.full((5, 6), 0.5), atol=0.01)


def test_kept_embedding_gradients_equal_torch():
    torch.manual_seed(0)
    plain = nn.Embedding(300, 4096 // 4, padding_idx=1)
    kept = nn.Embedding(300, 4096 // 4, padding_idx=1)
    kept.load_state_dict(plain.state_dict())
    holder = nn.ModuleDict({"table": kept})
    threshold, embedding.MIN_ELEMENTS = embedding.MIN_ELEMENTS, 10
    try:
        (found,) = embedding.install(holder, dtype=torch.float32)
    finally:
        embedding.MIN_ELEMENTS = threshold
    for seed in range(3):
        ids = torch.randint(0, 300, (2, 40), generator=torch.Generator().manual_seed(seed))
        weight = torch.randn(2, 40, 1024, generator=torch.Generator().manual_seed(seed))
        for table in (plain, found):
            (table(ids) * weight).sum().backward()
            (table(ids[:1]) * 2).sum().backward()
        assert torch.allclose(plain.weight.grad, found.weight.grad, atol=1e-5)
        plain.weight.grad = None
        found.clear()
        assert not found.weight.grad.any()


def test_lane_dropout_drops_its_share_and_keeps_the_mean():
    torch.manual_seed(0)
    for p in (0.1, 0.5, 0.9):
        layer = dropout.LaneDropout(p).train()
        out = layer(torch.ones(400_001))
        assert float((out == 0).float().mean()) == pytest.approx(p, abs=0.005)
        assert float(out.mean()) == pytest.approx(1.0, abs=0.02)
    assert torch.equal(layer.eval()(torch.ones(9)), torch.ones(9))
    lanes = dropout.random_lanes((100_000,), device=torch.device("cpu")).float()
    assert 0 <= float(lanes.min()) < float(lanes.max()) < dropout.LEVELS
    for offset in range(4):  # each of the four numbers of a draw is uniform
        assert float(lanes[offset::4].mean()) == pytest.approx(dropout.LEVELS / 2, rel=0.02)


@pytest.mark.parametrize(("name", "last"), [("linear", 1 / 90), ("cosine", 3.046e-4), ("constant", 1.0), ("one_cycle", 4e-6)])
def test_schedules_rise_to_the_peak_and_end_where_they_should(name, last):
    schedule = Schedule(Training(schedule=name, warmup=0.1), learning_rate=1.0, total=100)
    rates = [schedule.rate(i) for i in range(100)]
    assert max(rates) == pytest.approx(1.0, abs=0.01)
    assert rates[0] < 0.2
    assert rates[-1] == pytest.approx(last, rel=1e-3, abs=1e-9)


def test_plateau_follows_the_validation_loss_and_resumes():
    options = Training(schedule="plateau", warmup=0.0, plateau_patience=2, plateau_factor=0.5)
    schedule = Schedule(options, learning_rate=1.0, total=100)
    lowered = [schedule.observe(x) for x in (1.0, 0.9, 0.95, 0.92, 0.91, 0.99)]
    assert lowered == [False, False, False, True, False, True]
    assert schedule.rate(50) == 0.25
    again = Schedule(options, learning_rate=1.0, total=100)
    again.load_state_dict(schedule.state_dict())
    assert again.rate(50) == 0.25


@given(st.lists(st.integers(1, 90), min_size=1, max_size=60), st.integers(1, 200))
def test_batches_hold_every_row_once_within_the_budget(lengths, budget):
    rows = list(range(len(lengths)))
    for padded in (False, True):
        for longest_first in (False, True):
            runs = list(within_budget(rows, lengths, budget, padded=padded, longest_first=longest_first))
            assert sorted(r for run in runs for r in run) == rows
            for run in runs:
                own = [lengths[r] for r in run]
                assert len(run) == 1 or (max(own) * len(own) if padded else sum(own)) <= budget


def stream(rows: int = 23, size: int = 5, **options) -> UpdateStream:
    examples = [{"input_ids": list(range(1, 2 + i % 7))} for i in range(rows)]
    return UpdateStream(examples, {"labels": torch.arange(rows)}, size=size, max_tokens=options.pop("max_tokens", 8), seed=3)


def test_every_epoch_shows_every_row_once_in_another_order():
    source = stream()
    updates = iter(source)
    epochs = [[next(updates) for _ in range(source.updates_per_epoch)] for _ in range(3)]
    orders = [[r for u in epoch for b in u.batches for r in b.rows] for epoch in epochs]
    assert all(sorted(order) == list(range(23)) for order in orders)
    assert orders[0] != orders[1]
    assert [u.ends_epoch for u in epochs[0]] == [False] * 4 + [True]
    for update in epochs[0]:
        for batch in update.batches:
            assert batch.targets["labels"].tolist() == list(batch.rows)


@pytest.mark.parametrize("stop", [0, 3, 4, 5, 9, 10])
def test_a_stream_goes_on_where_its_state_says(stop):
    def rows(updates, count):
        return [[b.rows for b in next(updates).batches] for _ in range(count)]

    whole = rows(iter(stream()), 14)
    first = stream()
    updates = iter(first)
    head = rows(updates, stop)
    second = stream()
    second.load_state_dict(first.state_dict())
    assert head + rows(iter(second), 14 - stop) == whole


def test_the_gradient_does_not_depend_on_how_an_update_is_cut():
    torch.manual_seed(0)
    features = torch.randn(23, 4)
    ends = []
    for budget in (3, 1000):
        model = nn.Linear(4, 1)
        nn.init.constant_(model.weight, 0.1)
        nn.init.zeros_(model.bias)

        def loss(model, batch):
            error = model(features[batch.targets["labels"]])[:, 0] - 1
            return Loss((error**2).sum(), float(len(error)), {"first": float(error[0])})

        reports = train(model, stream(max_tokens=budget), loss=loss, optimizer=Optimizer(model, Training()), rate=lambda step: 0.01)
        ends.append(([next(reports).loss for _ in range(6)], model.weight.detach().clone()))
    assert ends[0][0] == pytest.approx(ends[1][0], rel=1e-5)
    assert torch.allclose(ends[0][1], ends[1][1], atol=1e-6)


def drive(model: nn.Module, optimizer: Optimizer, steps: int, *, rate: float = 1e-2) -> None:
    """Some updates on fixed random inputs, seeded as the loop seeds them."""
    for step in range(steps):
        torch.manual_seed(step)
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(next(model.parameters()).dtype)
        (model(x).float().square().sum() * optimizer.loss_scale).backward()
        weight = 8.0 * optimizer.loss_scale
        optimizer.step(learning_rate=rate, weight=weight, norm=optimizer.gradient_norm(weight))
        optimizer.clear()


def test_stochastic_rounding_is_right_on_average():
    """Each value becomes one of its two bf16 neighbours, with the mean where it was; bf16 values stay."""
    wide = torch.tensor([1.001, -3.3, 1e-3, 0.5])
    torch.manual_seed(0)
    drawn = torch.stack([stochastically_rounded(wide) for _ in range(4000)]).float()
    assert all(len(drawn[:, i].unique()) == 2 for i in range(3))
    assert drawn[:, 3].unique().tolist() == [0.5]
    assert torch.allclose(drawn.mean(0), wide, rtol=2e-4)


def test_small_updates_add_up_without_masters():
    """Updates far below a bf16 step vanish by plain rounding, and add up by chance; no fp32 copy of the weights is kept."""
    options = Training(precision="bf16", rounding="stochastic", weight_decay=0.0)
    torch.manual_seed(0)
    model, exact = nn.Linear(64, 64).to(torch.bfloat16), nn.Linear(64, 64)
    exact.load_state_dict({n: t.float() for n, t in model.state_dict().items()})
    start = exact.weight.detach().clone()
    one, two = Optimizer(model, options), Optimizer(exact, Training(weight_decay=0.0))
    for step in range(60):
        torch.manual_seed(step)
        for m, o in ((model, one), (exact, two)):
            (m.weight.float().sum() + m.bias.float().sum()).backward()
            o.step(learning_rate=1e-5, weight=1.0, norm=0.1)
            o.clear()
    moved = float((exact.weight - start).mean())
    assert float((model.weight.float() - start).mean()) == pytest.approx(moved, rel=0.1)
    assert not any(n.startswith("master") for n in one.state_dict())


@pytest.mark.parametrize("options", [{"optimizer": "adamw8bit"}, {"precision": "bf16", "rounding": "stochastic"}, {}])
def test_optimizer_states_resume_to_the_same_bits(options):
    """Ten updates at once, and five and five with the state saved between, end alike."""
    dtype = torch.bfloat16 if "precision" in options else torch.float32
    made = Training(**options)

    def big() -> nn.Module:
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 1024), nn.Linear(1024, 64)).to(dtype)

    whole, first = big(), big()
    drive(whole, Optimizer(whole, made), 10)
    half = Optimizer(first, made)
    drive(first, half, 5)
    second = big()
    second.load_state_dict(first.state_dict())
    later = Optimizer(second, made)
    later.load_state_dict({n: t.clone() for n, t in half.state_dict().items()})
    for step in range(5, 10):
        torch.manual_seed(step)
        x = torch.randn(8, 6, generator=torch.Generator().manual_seed(step)).to(dtype)
        second(x).float().square().sum().backward()
        later.step(learning_rate=1e-2, weight=8.0, norm=later.gradient_norm(8.0))
        later.clear()
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), second.parameters(), strict=True))


def test_eight_bit_moments_follow_fp32_ones():
    def big() -> nn.Module:
        torch.manual_seed(0)
        return nn.Linear(6, 1024)

    plain, narrow = big(), big()
    one, two = Optimizer(plain, Training()), Optimizer(narrow, Training(optimizer="adamw8bit"))
    drive(plain, one, 20, rate=1e-3)
    drive(narrow, two, 20, rate=1e-3)
    moved = (plain.weight - big().weight).norm()
    assert float((plain.weight - narrow.weight).norm() / moved) < 0.1
    assert {t.dtype for n, t in two.state_dict().items() if n == "state1:weight"} == {torch.uint8}
    with pytest.raises(ModelError, match="CUDA only"):
        Optimizer(big(), Training(optimizer="paged_adamw8bit"))


def test_fp16_scales_its_loss_and_leaves_out_updates_that_overflow():
    """Gradients too small for fp16 arrive all the same; an overflow halves the scale and costs one update, told by a rate of 0."""
    model = small().to(torch.float16)
    optimizer = Optimizer(model, Training())
    assert optimizer.loss_scale == 4096
    batches = list(UpdateStream([{"input_ids": [1, 2]}] * 8, {}, size=4, max_tokens=99, seed=0).__iter__().__next__().batches)
    assert batches
    seen = []

    def loss(m: nn.Module, batch: object) -> Loss:
        factor = 60000.0 if len(seen) == 1 else 1e-6
        seen.append(factor)
        return Loss(m(torch.ones(4, 6, dtype=torch.float16)).float().sum() * factor, 4.0)

    stream = UpdateStream([{"input_ids": [1, 2]}] * 8, {}, size=4, max_tokens=99, seed=0)
    before = [p.detach().clone() for p in model.parameters()]
    reports = train(model, stream, loss=loss, optimizer=optimizer, rate=lambda step: 1e-2)
    rates = [next(reports).learning_rate for _ in range(3)]
    assert rates == [1e-2, 0.0, 1e-2]
    assert optimizer.loss_scale == 2048
    assert not all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_layers_learn_slower_further_down():
    from tests.tiny import config

    model = transformers.AutoModelForSequenceClassification.from_config(config("bert"))
    rate = layer_rates(model, 0.5)
    assert rate("classifier.weight") == 1.0
    assert rate("bert.encoder.layer.1.output.dense.weight") == 0.5
    assert rate("bert.encoder.layer.0.attention.self.query.bias") == 0.25
    assert rate("bert.embeddings.word_embeddings.weight") == rate("bert.embeddings.LayerNorm.weight") == 0.125
