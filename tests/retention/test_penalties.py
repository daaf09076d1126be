"""The penalties and their gradients are those of the papers, computed by hand with plain torch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.errors import ModelError
from luthier.models import embedding
from luthier.models.batch import Batch, Loss, collate
from luthier.models.forward import hidden_states, pooled_logits
from luthier.models.heads import Head
from luthier.models.language import language_loss, masked_loss
from luthier.models.load import for_training
from luthier.registry import RETENTION, RETENTION_OPTIONS
from luthier.retention.ewc import EWC, fisher
from luthier.retention.retention import Retention, Start, moving
from tests import tiny
from tests.retention import world


def batch_of(count: int = 5, *, labels: bool = False, seed: int = 0) -> Batch:
    examples: list[dict[str, Any]] = [{"input_ids": ids} for ids in tiny.sentences(count, seed=seed)]
    for e in examples if labels else ():
        e["labels"] = [i if n % 2 else -100 for n, i in enumerate(e["input_ids"])]
    batch = collate(examples)
    targets = {"labels": torch.tensor([r % 3 for r in batch.rows])}
    return Batch(**{**vars(batch), "targets": targets})


def classes_loss(layout: Any):
    def loss(model, batch):
        logits = pooled_logits(model, batch, layout).float()
        return Loss(F.cross_entropy(logits, batch.targets["labels"], reduction="sum"), float(len(logits)))

    return loss


def way(name: str, start: Start, **options: Any) -> Retention:
    made = RETENTION.load(name)(RETENTION_OPTIONS.load(name)(type=name, **options))
    made.check(start)
    made.begin(start)
    return made


def start_of(loaded, method, loss=None, rows=None) -> Start:
    return Start(loaded, method, loss or classes_loss(loaded.layout), rows)


def shake(model: torch.nn.Module, size: float = 0.05) -> None:
    """Move all that trains."""
    draw = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for p in moving(model).values():
            p.add_(size * torch.randn(p.shape, generator=draw))


def gradients(model: torch.nn.Module, value: Tensor) -> dict[str, Tensor]:
    model.zero_grad()
    value.backward()
    return {n: p.grad.clone() if p.grad is not None else torch.zeros_like(p) for n, p in moving(model).items()}


def same(a: dict[str, Tensor], b: dict[str, Tensor], bound: float = 1e-5) -> None:
    assert a.keys() == b.keys()
    total = sum(float(t.square().sum()) for t in b.values()) ** 0.5
    assert total > 0
    assert sum(float((a[n] - b[n]).square().sum()) for n in b) ** 0.5 < bound * total


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    folder = tmp_path_factory.mktemp("penalties")
    world.classifier(folder / "classifier")
    for family in ("llama", "gemma2", "bert", "t5"):
        tiny.save(family, folder / family, initializer_range=0.2)
    torch.manual_seed(0)
    __import__("transformers").AutoModelForMaskedLM.from_config(tiny.config("bert")).save_pretrained(folder / "filler")
    tiny.tokenizer("bert").save_pretrained(folder / "filler")
    return folder


@pytest.mark.parametrize("fresh", [False, True])
def test_l2sp_is_half_the_squared_distance(models, fresh):
    loaded, method = world.load(models / ("bert" if fresh else "classifier"), world.CLASSES)
    begun = {n: p.detach().clone() for n, p in moving(loaded.model).items()}
    made = way("l2sp", start_of(loaded, method), strength=0.3, head_strength=0.07)
    shake(loaded.model)
    got = made.penalty(loaded.model, batch_of())
    assert got is not None
    new = {n for n in begun if n.startswith("classifier.")} if fresh else set()
    parameters = moving(loaded.model)
    by_hand = sum(0.3 / 2 * (p - begun[n]).square().sum() if n not in new else 0.07 / 2 * p.square().sum() for n, p in parameters.items())
    assert float(got) == pytest.approx(float(by_hand), rel=1e-5)
    same(gradients(loaded.model, got), gradients(loaded.model, by_hand))


def test_l2sp_with_lora_is_on_what_the_adapters_add(models):
    """Also where adapters had learned before."""
    loaded, method = world.load(models / "llama", Head("causal"), "lora", rank=4, target_modules=["q_proj", "embed_tokens"])
    shake(loaded.model)
    begun = copy.deepcopy(loaded.model)
    made = way("l2sp", start_of(loaded, method), strength=0.5)
    assert float(made.penalty(loaded.model, batch_of())) == pytest.approx(0, abs=1e-5)
    shake(loaded.model, 0.2)
    got = made.penalty(loaded.model, batch_of())
    assert got is not None

    def added(model):
        return [m.get_delta_weight("default") for n, m in model.named_modules() if hasattr(m, "get_delta_weight")]

    by_hand = sum(0.5 / 2 * (a - b.detach()).square().sum() for a, b in zip(added(loaded.model), added(begun), strict=True))
    assert len(added(begun)) == 3
    assert float(got) == pytest.approx(float(by_hand), rel=1e-4)
    same(gradients(loaded.model, got), gradients(loaded.model, by_hand), 1e-4)


@pytest.mark.parametrize("kept", [False, True])
def test_fisher_is_the_mean_of_squared_gradients_of_single_examples(models, kept, monkeypatch):
    loaded, _ = world.load(models / "classifier", world.CLASSES)
    if kept:  # tables whose gradients live in buffers
        monkeypatch.setattr(embedding, "MIN_ELEMENTS", 1)
        assert for_training(loaded.model, device=torch.device("cpu"), dtype=torch.float32)
    loss, whole = classes_loss(loaded.layout), batch_of(6)
    ids = whole.input_ids.split(whole.segments.lengths.tolist())
    found = fisher(loaded.model, loss, [one(i, whole) for i in range(6)])
    loaded.model.eval()
    plain = copy.deepcopy(world.load(models / "classifier", world.CLASSES)[0].model).eval()
    plain.set_attn_implementation("sdpa")
    squares = {n: torch.zeros_like(p) for n, p in plain.named_parameters()}
    for i in range(6):
        plain.zero_grad()
        logits = plain(input_ids=ids[i][None]).logits
        torch.log_softmax(logits, 1)[0, int(whole.targets["labels"][i])].backward()
        for n, p in plain.named_parameters():
            squares[n] += p.grad.square() if p.grad is not None else 0
    same(found, {n: s / 6 for n, s in squares.items()})
    assert all(p.grad is None or not p.grad.any() for p in loaded.model.parameters())
    with pytest.raises(ValueError, match="6 examples"):
        fisher(loaded.model, loss, [whole])
    with pytest.raises(ValueError, match="no example"):
        fisher(loaded.model, loss, [])


def one(i: int, whole: Batch) -> Batch:
    ids = whole.input_ids.split(whole.segments.lengths.tolist())[i]
    return Batch(**{**vars(collate([{"input_ids": ids.tolist()}])), "targets": {"labels": whole.targets["labels"][i : i + 1]}})


class Some:
    """Stands for rows of files."""

    def __init__(self, batches: list[Batch]) -> None:
        self.batches = batches

    def singly(self):
        return iter(self.batches)


def test_ewc_weighs_the_distance_and_consolidates_online(models):
    loaded, method = world.load(models / "classifier", world.CLASSES)
    loss, first, second = classes_loss(loaded.layout), batch_of(4), batch_of(3, seed=5)
    rows = Some([one(i, first) for i in range(4)])
    made = way("ewc", start_of(loaded, method, loss, rows), data=["x"], strength=40.0, decay=0.25)
    assert isinstance(made, EWC)
    assert made.state() == {}
    begun = {n: p.detach().clone() for n, p in moving(loaded.model).items()}
    f1 = fisher(loaded.model, loss, [one(i, first) for i in range(4)])
    shake(loaded.model)
    got = made.penalty(loaded.model, first)
    assert got is not None
    by_hand = sum(40 / 2 * (f1[n] * (p - begun[n]).square()).sum() for n, p in moving(loaded.model).items())
    assert float(got) == pytest.approx(float(by_hand), rel=1e-4)
    same(gradients(loaded.model, got), gradients(loaded.model, by_hand))
    loaded.model.zero_grad()
    made.consolidate(loaded.model, loss, [one(i, second) for i in range(3)])
    f2 = fisher(loaded.model, loss, [one(i, second) for i in range(3)])
    same(made.importance, {n: 0.25 * f1[n] + f2[n] for n in f1})
    assert float(made.penalty(loaded.model, first)) == 0
    saved = {n: t.clone() for n, t in made.state().items()}
    again = way("ewc", start_of(loaded, method, loss, rows), data=["x"], decay=0.25)
    shake(loaded.model)
    again.load_state(saved)
    assert {n: t.tolist() for n, t in again.state().items()} == {n: t.tolist() for n, t in saved.items()}


@pytest.mark.parametrize("kind", ["single_label_classification", "multi_label_classification", "regression"])
def test_distill_of_answers(models, kind):
    loaded, method = world.load(models / "classifier", Head("classes", 3, world.LABELS, kind))
    begun = copy.deepcopy(loaded.model).eval()
    made = way("distill", start_of(loaded, method), strength=0.7, temperature=3.0)
    shake(loaded.model)
    moved = {n: p.detach().clone() for n, p in moving(loaded.model).items()}
    batch = batch_of()
    got = made.penalty(loaded.model.eval(), batch)
    assert got is not None
    with torch.no_grad():
        old = pooled_logits(begun, batch, loaded.layout)
    new = pooled_logits(loaded.model, batch, loaded.layout)
    if kind.startswith("single"):
        by_hand = 9 * F.kl_div(F.log_softmax(new / 3, 1), F.log_softmax(old / 3, 1), log_target=True, reduction="batchmean")
    elif kind.startswith("multi"):
        p, q = torch.sigmoid(old / 3), torch.sigmoid(new / 3)
        by_hand = 9 * (p * (p / q).log() + (1 - p) * ((1 - p) / (1 - q)).log()).sum() / len(p)
    else:
        by_hand = (new - old).square().sum() / 2 / len(new)
    assert float(got) == pytest.approx(0.7 * float(by_hand), rel=1e-4)
    same(gradients(loaded.model, got), gradients(loaded.model, 0.7 * by_hand), 1e-4)
    assert all(torch.equal(p, moved[n]) for n, p in moving(loaded.model).items())


def test_distill_leaves_new_labels_alone(models):
    """Of a head that took a fourth label, the three that the starting model knew are compared."""
    wide = Head("classes", 4, (*world.LABELS, "puzzled"), "single_label_classification")
    loaded, method = world.load(models / "classifier", wide)
    assert loaded.grown is not None
    assert list(loaded.grown.new) == ["puzzled"]
    begun = copy.deepcopy(loaded.model).eval()
    made = way("distill", start_of(loaded, method), strength=1.0, temperature=2.0)
    shake(loaded.model)
    batch = batch_of()
    got = made.penalty(loaded.model.eval(), batch)
    assert got is not None
    with torch.no_grad():
        old = pooled_logits(begun, batch, loaded.layout)[:, :3]
    new = pooled_logits(loaded.model, batch, loaded.layout)[:, :3]
    by_hand = 4 * F.kl_div(F.log_softmax(new / 2, 1), F.log_softmax(old / 2, 1), log_target=True, reduction="batchmean")
    assert float(got.detach()) == pytest.approx(float(by_hand.detach()), rel=1e-4)
    same(gradients(loaded.model, got), gradients(loaded.model, by_hand), 1e-4)


@pytest.mark.parametrize(("family", "chunk"), [("llama", None), ("llama", 1), ("gemma2", 1)])
def test_distill_of_tokens_chunk_by_chunk(models, family, chunk, monkeypatch):
    """Gemma 2 caps its logits; its head is its table."""
    from luthier.retention import divergence

    if chunk is not None:
        monkeypatch.setattr(divergence, "CHUNK_LOGITS", chunk)  # 16 rows at a time
    loaded, method = world.load(models / family, Head("causal"))
    begun = copy.deepcopy(loaded.model).eval()
    made = way("distill", start_of(loaded, method), temperature=2.0)
    shake(loaded.model)
    batch = batch_of(8, labels=True)
    places = (batch.labels != -100).nonzero()[:, 0]
    assert len(places) > 32
    got = made.penalty(loaded.model.eval(), batch)
    assert got is not None

    def logits(model):
        flat = hidden_states(model, batch, loaded.layout)[places]
        raw = model.lm_head(flat)
        cap = getattr(model.config, "final_logit_softcapping", None)
        return raw if cap is None else cap * torch.tanh(raw / cap)

    with torch.no_grad():
        old = logits(begun)
    by_hand = 4 * F.kl_div(F.log_softmax(logits(loaded.model) / 2, 1), F.log_softmax(old / 2, 1), log_target=True, reduction="batchmean")
    assert float(got) == pytest.approx(float(by_hand), rel=1e-4)
    same(gradients(loaded.model, got), gradients(loaded.model, by_hand), 1e-4)


def test_distill_where_gradients_live_in_buffers(models, monkeypatch):
    """With the table, the head and the task's own loss beside it."""
    expected = None
    for kept in (False, True):
        loaded, method = world.load(models / "llama", Head("causal"))
        if kept:
            monkeypatch.setattr(embedding, "MIN_ELEMENTS", 1)
            assert for_training(loaded.model, device=torch.device("cpu"), dtype=torch.float32, head=loaded.head)
        made = way("distill", start_of(loaded, method))
        shake(loaded.model)
        batch = batch_of(8, labels=True)
        total = made.penalty(loaded.model.eval(), batch) * 3 + language_loss(loaded.model, batch, loaded.layout)[0]
        total.backward()
        found = {n: p.grad.clone() for n, p in moving(loaded.model).items()}
        if expected is None:
            expected = found
        else:
            same(found, expected)


def test_distill_of_hidden_words_and_of_pairs(models):
    for family, head, loss in (("filler", "masked", masked_loss), ("t5", "pairs", language_loss)):
        loaded, method = world.load(models / family, Head(head))
        examples = [
            {"input_ids": ids, "labels": ids, **({"source_ids": ids[::-1]} if head == "pairs" else {})} for ids in tiny.sentences(4)
        ]
        batch = collate(examples)
        made = way("distill", start_of(loaded, method))
        assert float(made.penalty(loaded.model.eval(), batch)) == pytest.approx(0, abs=1e-5)
        shake(loaded.model)
        got = made.penalty(loaded.model, batch)
        assert got is not None
        assert float(got) > 1e-3
        assert sum(float(g.abs().sum()) for g in gradients(loaded.model, got).values()) > 0
        assert loss(loaded.model, batch, loaded.layout)[1] == len(batch.input_ids)


def test_distill_of_hidden_states_under_a_new_head(models):
    loaded, method = world.load(models / "bert", world.CLASSES)
    begun = copy.deepcopy(loaded.model).eval()
    with pytest.raises(ModelError, match=r"the head starts at random.*set on: hidden"):
        way("distill", start_of(loaded, method), on="logits")
    made = way("distill", start_of(loaded, method))
    shake(loaded.model)
    batch = batch_of()
    got = made.penalty(loaded.model.eval(), batch)
    assert got is not None
    with torch.no_grad():
        old = hidden_states(begun, batch, loaded.layout)
    by_hand = 0.5 * F.mse_loss(hidden_states(loaded.model, batch, loaded.layout), old)
    assert float(got) == pytest.approx(float(by_hand), rel=1e-4)
    same(gradients(loaded.model, got), gradients(loaded.model, by_hand), 1e-4)
    frozen, only_head = world.load(models / "bert", world.CLASSES, "freeze", head_only=True)
    with pytest.raises(ModelError, match="only heads train"):
        way("distill", start_of(frozen, only_head))


def test_the_starting_model_runs_without_dropout_and_the_model_with_it(models):
    loaded, method = world.load(models / "classifier", world.CLASSES)
    made = way("distill", start_of(loaded, method))
    loaded.model.train()
    torch.manual_seed(0)
    values = {round(float(made.penalty(loaded.model, batch_of())), 8) for _ in range(3)}
    assert len(values) == 3
    assert loaded.model.training
    loaded.model.eval()
    assert float(made.penalty(loaded.model, batch_of())) == pytest.approx(0, abs=1e-6)


REFUSED = {
    ("l2sp", "ia3"): "how far ia3 moves", ("l2sp", "prompt"): "moves no weight that was there", ("ewc", "prompt"): "start at random",
    ("distill", "prompt"): "start at random", ("soup", "prompt"): "half with the tokens", ("soup", "oft"): "cannot be scaled",
}  # fmt: skip


@pytest.mark.parametrize("method", ["lora", "ia3", "oft", "prompt"])
@pytest.mark.parametrize("name", ["l2sp", "ewc", "distill", "soup"])
def test_adapters_work_or_are_refused_with_the_reason(models, name, method):
    loaded, chosen = world.load(
        models / "llama",
        Head("causal"),
        method,
        **{"lora": {"rank": 4}, "oft": {"block_size": 8}, "prompt": {"virtual_tokens": 3}}.get(method, {}),
    )
    batch = batch_of(4, labels=True)

    def loss(model, batch):
        total, count = language_loss(model, batch, loaded.layout)
        return Loss(total, float(count))

    rows = Some([collate([{"input_ids": ids, "labels": ids}]) for ids in tiny.sentences(3)])
    start = start_of(loaded, chosen, loss, rows if name == "ewc" else None)
    options = {"data": ["x"]} if name == "ewc" else {}
    reason = REFUSED.get((name, method)) or (REFUSED["l2sp", "ia3"].replace("ia3", method) if (name, method) == ("l2sp", "oft") else None)
    if reason is not None:
        with pytest.raises(ModelError, match=reason):
            way(name, start, **options)
        return
    made = way(name, start, **options)
    shake(loaded.model)
    if name != "soup":
        extra = made.penalty(loaded.model, batch)
        assert extra is not None
        assert float(extra) > 0
        assert sum(float(g.abs().sum()) for g in gradients(loaded.model, extra).values()) > 0


def test_what_cannot_be_is_refused(models):
    loaded, method = world.load(models / "bert", world.CLASSES)
    with pytest.raises(ModelError, match="what earlier rows depend on is noise"):
        way("ewc", start_of(loaded, method), data=["x"])
    loaded.base = None
    with pytest.raises(ModelError, match="a new model has nothing to keep"):
        way("l2sp", start_of(loaded, method))
    for options, reason in (({"dora": True}, "DoRA"), ({"init": "pissa"}, "takes its share out of the base")):
        loaded, method = world.load(models / "llama", Head("causal"), "lora", rank=4, **options)
        with pytest.raises(ModelError, match=reason):
            way("soup", start_of(loaded, method))
