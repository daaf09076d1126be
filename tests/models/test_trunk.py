"""A frozen trunk that was computed once trains the same model as one computed in every epoch."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers as hf
from safetensors.torch import load_file

import luthier
from luthier.data.tokens import Tokens, assemble_tokens
from luthier.errors import Interrupted, ModelError, SpaceError
from luthier.models import forward, kept
from luthier.models.adapters.freeze import Freeze
from luthier.models.batch import Batch, Loss
from luthier.models.heads import Head, PooledModel, build_head
from luthier.models.kept import Kept, bytes_of, keep
from luthier.models.language import language_loss
from luthier.models.load import Loaded, for_training, quiet
from luthier.models.trunk import Trunk, find
from luthier.recipe.methods.freeze import FreezeOptions
from luthier.recipe.sections import Training
from luthier.training.batches import UpdateStream
from luthier.training.loop import train
from luthier.training.optim import Optimizer
from luthier.workflow.events import Note
from tests import tiny
from tests.workflow.test_resume import LONG, endings, newest_run, stopping_at

FAMILIES = ("bert", "distilbert", "roberta", "llama", "gpt2")
ROWS, SIZE, EPOCHS = 24, 7, 3
EPSILON = 1e-3  # a key bias has no gradient but rounding, and AdamW would walk with it
CLASSES = Head("classes", 3, ("a", "b", "c"), "single_label_classification")
CASES = [
    *[(family, kind, options) for family in FAMILIES for kind, options in [("classes", {"layers": 1}), ("classes", {"head_only": True})]],
    *[(family, "classes", {"layers": 2}) for family in ("bert", "llama")],
    *[(family, "causal", {"layers": n}) for family in ("llama", "gpt2") for n in (1, 2)],
    ("modernbert", "classes", {"layers": 2}), ("gemma2", "causal", {"layers": 1}), ("opt", "causal", {"layers": 1}), ("mlp", "classes", {"head_only": True}),
]  # fmt: skip


def build(family: str, kind: str, options: dict[str, Any], *, dtype: torch.dtype = torch.float32) -> tuple[Loaded, Freeze]:
    """A tiny model with its dropout, frozen and in training shape; the same at every call."""
    autos = {"classes": hf.AutoModelForSequenceClassification, "causal": hf.AutoModelForCausalLM}
    auto = hf.AutoModel if family == "mlp" else autos[kind]
    config = tiny.config("bert" if family == "mlp" else family, **({"num_labels": 3} if kind == "classes" else {}))
    torch.manual_seed(0)
    with quiet():
        model: Any = auto.from_config(config, attn_implementation="eager" if family == "gemma2" else "sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    if family == "mlp":
        model = PooledModel(model, build_head("mlp", hidden_size=32, outputs=3), pooling="first")
    head = CLASSES if kind == "classes" else Head("causal")
    forward.prepare(model)
    layout = forward.choose_layout(model, wanted="ragged", pad_id=config.pad_token_id or 0, kind=kind)
    loaded = Loaded(model, tiny.tokenizer(), layout, 64, None, True, [], head)
    method = Freeze(FreezeOptions(**options))
    method.apply(loaded)
    for_training(model, device=torch.device("cpu"), dtype=dtype, head=head)
    return loaded, method


def examples(kind: str, *, seed: int = 0) -> Tokens:
    """Rows of different lengths; in chats the second half is graded."""
    rows = [{"input_ids": ids} for ids in tiny.sentences(ROWS, seed=seed)]
    if kind == "causal":
        for row in rows:
            half = len(row["input_ids"]) // 2
            row["labels"] = [-100] * half + row["input_ids"][half:]
    return assemble_tokens(rows)


def bottom_of(loaded: Loaded, method: Freeze) -> Trunk:
    found = find(loaded.model, loaded.layout, loaded.head, bottom=method.bottom(loaded) or 0)
    assert isinstance(found, Trunk), found
    return found


def stored(loaded: Loaded, method: Freeze, tokens: Tokens, folder: Path, *, precision: kept.Precision = "fp32") -> Kept:
    return keep(bottom_of(loaded, method), tokens, folder=folder, precision=precision, max_tokens=100)


def fit(loaded: Loaded, tokens: Tokens, above: Kept | None) -> tuple[list[float], list[float], dict[str, torch.Tensor]]:
    """Losses, gradient norms and final weights of a training of three epochs, in two passes an update."""
    layout, labels = loaded.layout, torch.arange(ROWS) % 3
    optimizer = Optimizer(loaded.model, Training(weight_decay=0.01, epsilon=EPSILON))

    def loss(model: torch.nn.Module, batch: Batch) -> Loss:
        if loaded.head.kind == "causal":
            total, count = language_loss(model, batch, layout)
            return Loss(total, float(count))
        logits = forward.pooled_logits(model, batch, layout).float()
        return Loss(torch.nn.functional.cross_entropy(logits, batch.targets["labels"], reduction="sum"), float(len(logits)))

    stream = UpdateStream(
        tokens.examples(), {"labels": labels}, size=SIZE, max_tokens=60, seed=0, types=layout.token_types, above=above and above.above
    )
    reports = train(loaded.model, stream, loss=loss, optimizer=optimizer, rate=lambda step: 3e-2)
    found = [next(reports) for _ in range(EPOCHS * stream.updates_per_epoch)]
    weights = {n: p.detach().clone() for n, p in loaded.model.named_parameters()}
    return [r.loss for r in found], [r.grad_norm for r in found], weights


def distance(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> float:
    return max(float((a[n].detach().float() - b[n].detach().float()).abs().max()) for n in a)


@pytest.mark.parametrize(("family", "kind", "options"), CASES)
def test_losses_gradients_and_weights_equal_those_of_a_computed_trunk(family, kind, options, tmp_path):
    tokens = examples(kind)
    plain = fit(build(family, kind, options)[0], tokens, None)
    loaded, method = build(family, kind, options)
    rows = stored(loaded, method, tokens, tmp_path)
    assert rows.trunk.pooled == (kind == "classes" and (bool(options.get("head_only")) or (family, options) == ("bert", {"layers": 2})))
    fast = fit(loaded, tokens, rows)
    assert fast[0] == pytest.approx(plain[0], abs=1e-5)
    assert fast[1] == pytest.approx(plain[1], rel=1e-4, abs=1e-5)
    assert distance(plain[2], fast[2]) < 1e-5
    begun = dict(build(family, kind, options)[0].model.named_parameters())
    assert distance(begun, plain[2]) > 1e-2, "it trains"
    frozen = {n for n, p in loaded.model.named_parameters() if not p.requires_grad}
    assert all(torch.equal(begun[n], fast[2][n]) for n in frozen)


@pytest.mark.parametrize("family", ["bert", "gpt2"])
def test_frozen_layers_stay_without_dropout_whatever_the_model_is_told(family):
    for options in ({"layers": 1}, {"head_only": True}):
        loaded, method = build(family, "classes", options)
        layers = method.bottom(loaded)
        loaded.model.train()
        loaded.model.eval()
        loaded.model.train()
        trunk = forward.trunk_of(loaded.model)
        stack = trunk.encoder.layer if family == "bert" else trunk.h
        below = [*stack[:layers], trunk.embeddings if family == "bert" else trunk.drop]
        assert not any(m.training for part in below for m in part.modules())
        assert all(m.training for part in stack[layers:] for m in part.modules())


def test_layers_above_are_the_only_ones_that_run(tmp_path):
    loaded, method = build("llama", "causal", {"layers": 1})
    tokens = examples("causal")
    rows = stored(loaded, method, tokens, tmp_path)
    ran: list[str] = []
    for name, module in loaded.model.named_modules():
        if name.endswith("self_attn"):
            module.register_forward_hook(lambda *call, name=name: ran.append(name))
    fit(loaded, tokens, rows)
    assert set(ran) == {"model.layers.1.self_attn"}
    rows.trunk.states(next(batches(tokens)))
    assert ran[-1] == "model.layers.0.self_attn", "and to compute the rows, no layer above"


@pytest.mark.parametrize("options", [{"layers": 1}, {"head_only": True}])
def test_a_copy_of_the_model_computes_with_its_own_weights(options):
    loaded, method = build("llama", "classes", options)
    bottom_of(loaded, method)
    batch = next(batches(examples("classes")))
    with torch.no_grad():
        twin = copy.deepcopy(loaded.model)
        before = forward.pooled_logits(twin.eval(), batch, loaded.layout)
        loaded.model.model.layers[0].mlp.up_proj.weight.zero_()
        assert torch.equal(before, forward.pooled_logits(twin, batch, loaded.layout))
        assert not torch.equal(before, forward.pooled_logits(loaded.model.eval(), batch, loaded.layout))


def batches(tokens: Tokens):
    for update in UpdateStream(tokens.examples(), {}, size=SIZE, max_tokens=1000, seed=0):
        yield from update.batches


def test_rows_are_found_again_until_a_weight_a_text_or_the_way_changes(tmp_path, monkeypatch):
    monkeypatch.setattr(kept, "STORES", 4)
    loaded, method = build("bert", "classes", {"layers": 1})
    tokens = examples("classes")
    assert not stored(loaded, method, tokens, tmp_path).found
    again, method = build("bert", "classes", {"layers": 1})
    assert stored(again, method, tokens, tmp_path).found
    with torch.no_grad():
        again.model.classifier.weight.add_(1.0)
        again.model.bert.encoder.layer[1].output.dense.weight.add_(1.0)
    assert stored(again, method, tokens, tmp_path).found, "what trains is not part of it"
    assert not stored(again, method, examples("classes", seed=1), tmp_path).found
    assert not stored(again, method, tokens, tmp_path, precision="bf16").found
    assert not stored(*build("bert", "classes", {"layers": 2}), tokens, tmp_path).found
    with torch.no_grad():
        again.model.bert.encoder.layer[0].output.dense.bias[0] += 1e-3
    assert not stored(again, method, tokens, tmp_path).found
    assert len(list(tmp_path.iterdir())) == kept.STORES, "older files make room"


@pytest.mark.parametrize("damage", ["a bit", "a byte less", "the header", "nothing in it"])
def test_a_damaged_file_is_computed_anew(damage, tmp_path):
    loaded, method = build("distilbert", "classes", {"layers": 1})
    tokens = examples("classes")
    before = stored(loaded, method, tokens, tmp_path).rows.clone()
    (path,) = tmp_path.iterdir()
    data = bytearray(path.read_bytes())
    if damage == "a bit":
        data[-5] ^= 1
    elif damage == "the header":
        data[20] ^= 1
    path.write_bytes(data[:-1] if damage == "a byte less" else b"" if damage == "nothing in it" else data)
    again = stored(loaded, method, tokens, tmp_path)
    assert not again.found
    assert torch.equal(again.rows, before)
    assert stored(loaded, method, tokens, tmp_path).found


@pytest.mark.parametrize(("precision", "bound"), [("fp32", 0.0), ("bf16", 2**-8)])
def test_the_file_is_plain_and_as_precise_as_asked(precision, bound, tmp_path):
    loaded, method = build("bert", "classes", {"layers": 1})
    tokens = examples("classes")
    rows = stored(loaded, method, tokens, tmp_path, precision=precision)
    (path,) = tmp_path.iterdir()
    assert path.stat().st_size == bytes_of(rows.trunk, tokens, precision)
    plain = load_file(path)["states"]
    assert torch.equal(plain, rows.rows)
    assert plain.dtype == kept.DTYPES[precision]
    batch = next(batches(tokens))
    batch = Batch(**{**vars(batch), "token_types": torch.zeros_like(batch.input_ids)})
    exact, here = rows.trunk.states(batch), rows.above(batch).trunk
    assert here is not None
    assert here.dtype == torch.float32
    assert bool(((here - exact).abs() <= bound * exact.abs() + 1e-5).all()), "bf16 rounds to 8 bits"


def test_bf16_weights_train_from_kept_rows(tmp_path):
    tokens = examples("causal")
    plain = fit(build("llama", "causal", {"layers": 1}, dtype=torch.bfloat16)[0], tokens, None)
    loaded, method = build("llama", "causal", {"layers": 1}, dtype=torch.bfloat16)
    fast = fit(loaded, tokens, stored(loaded, method, tokens, tmp_path))
    assert fast[0] == pytest.approx(plain[0], abs=0.05)


def refusal(family: str, kind: str, options: dict[str, Any], bottom: int) -> str:
    loaded, _ = build(family, kind, options)
    found = find(loaded.model, loaded.layout, loaded.head, bottom=bottom)
    assert isinstance(found, str)
    return found


def test_what_cannot_be_kept_says_why():
    assert refusal("bert", "classes", {"embeddings": True}, 0) == "no bottom layer is frozen"
    assert refusal("bert", "classes", {"layers": 1}, 2) == "some weights of the bottom layers train"
    assert refusal("bert", "classes", {"layers": 1, "unfreeze": 0.5}, 1) == "some weights of the bottom layers train"
    loaded, _ = build("bert", "classes", {"layers": 1})
    padded = forward.Layout("padded", "first", reason="so it was asked")
    assert find(loaded.model, padded, CLASSES, bottom=1) == "batches are padded: so it was asked"
    loaded.model.bert.embeddings.train = torch.nn.Module.train.__get__(loaded.model.bert.embeddings)
    assert find(loaded.model, loaded.layout, CLASSES, bottom=1) == "its bottom draws at random in training"
    loaded, _ = build("bert", "classes", {"layers": 1})
    loaded.model.bert.embeddings.LayerNorm.requires_grad_(True)
    assert find(loaded.model, loaded.layout, CLASSES, bottom=1) == "something below the frozen layers trains"
    loaded.model.bert.embeddings.requires_grad_(False)
    assert isinstance(find(loaded.model, loaded.layout, CLASSES, bottom=1), Trunk)
    pairs = hf.AutoModelForSeq2SeqLM.from_config(tiny.config("t5"))
    assert find(pairs, forward.Layout("ragged", "last"), Head("pairs"), bottom=1) == "an encoder-decoder has two bottoms"


# ── from a recipe ──────────────────────────────────────────────────────────────────────────────────


def run_with(recipe: dict[str, Any], method: dict[str, Any], name: str) -> tuple[luthier.Run, list[str]]:
    notes: list[str] = []
    recipe["training"] |= {"epsilon": EPSILON, "learning_rate": 1e-2}
    made = {**recipe, "method": {"type": "freeze", "layers": 1, **method}, "output": {**recipe["output"], "name": name}}
    run = luthier.train(made, listener=lambda event: notes.append(event.text) if isinstance(event, Note) else None)
    return run, notes


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "trunk"


@pytest.mark.parametrize("method", [{}, {"layers": None, "head_only": True}])
def test_a_run_keeps_its_trunk_says_so_and_ends_with_the_same_model(method, recipe, cache):
    plain, notes = run_with(recipe, {**method, "trunk": "computed"}, "computed")
    assert not cache.exists()
    assert not any("kept on disk" in n for n in notes)
    fast, notes = run_with(recipe, method, "kept")
    assert any("MiB" in n and "kept on disk" in n for n in notes)
    assert "trunk" not in plain.facts
    assert fast.facts["trunk"] == "kept"
    assert len(list(cache.iterdir())) == 2, "of training and of validation"
    a, b = load_file(plain.model / "model.safetensors"), load_file(fast.model / "model.safetensors")
    assert distance(a, b) < 1e-5
    assert [r["loss"] for r in fast.lines("log.jsonl")] == pytest.approx([r["loss"] for r in plain.lines("log.jsonl")], abs=1e-5)
    again, notes = run_with(recipe, {**method, "trunk": "kept"}, "again")
    assert any("by an earlier run" in n for n in notes)
    assert again.facts["weights_digest"] == fast.facts["weights_digest"]


def test_bf16_takes_half_the_disk_and_moves_the_losses_little(recipe, cache):
    plain, _ = run_with(recipe, {}, "fp32")
    half, _ = run_with(recipe, {"trunk_precision": "bf16"}, "bf16")
    large, small, validation = sorted((p.stat().st_size - kept.HEADER for p in cache.iterdir()), reverse=True)
    assert large == 2 * small
    assert validation < small, "kept in fp32, once"
    losses = [[r["loss"] for r in run.lines("log.jsonl")] for run in (plain, half)]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], abs=1e-2)


@pytest.mark.parametrize("gone", [False, True])
def test_a_stopped_run_goes_on_to_the_same_bits(gone, recipe, cache):
    recipe["training"] |= LONG
    recipe["checkpoints"] = {"every_steps": 3}
    recipe["method"] = {"type": "freeze", "layers": 1}
    whole = endings(luthier.train(recipe))
    with pytest.raises(Interrupted):
        luthier.train(recipe, listener=stopping_at(7))
    for path in cache.iterdir() if gone else ():
        path.unlink()
    assert endings(luthier.resume(newest_run(recipe))) == whole


def test_chats_keep_their_trunk_too(tmp_path, cache):
    rows = [{"messages": [{"role": "user", "content": t}, {"role": "assistant", "content": label}]} for t, label in tiny.moods_rows(24)]
    (tmp_path / "chats.jsonl").write_text("\n".join(map(json.dumps, rows)))
    recipe = {
        "data": dict.fromkeys(["train", "validation", "test"], str(tmp_path / "chats.jsonl")), "task": {"type": "chat", "max_new_tokens": 4},
        "model": {"name": str(tiny.save("llama", tmp_path / "llama"))},
        "training": {"epochs": 2, "batch_size": 8, "threads": 1, "learning_rate": 1e-2},
        "evaluation": {"written": 2, "bootstrap": 100}, "output": {"folder": str(tmp_path / "runs")},
    }  # fmt: skip
    plain, _ = run_with(recipe, {"trunk": "computed"}, "computed")
    fast, _ = run_with(recipe, {}, "kept")
    assert fast.facts["trunk"] == "kept"
    assert distance(load_file(plain.model / "model.safetensors"), load_file(fast.model / "model.safetensors")) < 1e-5


@pytest.mark.parametrize(
    ("changes", "method", "reason"),
    [
        ({"training.epochs": 1}, {"trunk": "auto"}, "each row is seen once"),
        ({}, {"unfreeze": 0.5}, "they thaw as training goes on"),
        ({"training.attention": "padded"}, {}, "batches are padded"),
        ({"task.type": "masked"}, {}, "the task shows its rows otherwise in every epoch"),
    ],
)  # fmt: skip
def test_where_it_does_not_work_auto_computes_and_kept_refuses(changes, method, reason, recipe, cache):
    for path, value in changes.items():
        section, name = path.split(".")
        recipe.setdefault(section, {})[name] = value
    if "task.type" in changes:
        recipe["evaluation"].pop("baselines")
    run, notes = run_with(recipe, method, "auto")
    assert any(n.startswith("the frozen layers are computed in every epoch: ") and reason in n for n in notes)
    assert "trunk" not in run.facts
    assert not cache.exists()
    if method.get("trunk") == "auto":  # it works there, it only does not pay
        assert run_with(recipe, {**method, "trunk": "kept"}, "kept")[0].facts["trunk"] == "kept"
        return
    with pytest.raises(ModelError, match=f"cannot be kept: .*{reason}"):
        run_with(recipe, {**method, "trunk": "kept"}, "kept")


def test_a_full_disk_is_told_and_a_resumed_run_stays_with_its_way(recipe, cache, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise SpaceError("needs 9 MiB, 1 MiB are free")

    recipe["training"] |= {"epochs": 4}
    with monkeypatch.context() as patch:
        patch.setattr(kept, "need_space", full)
        run, notes = run_with(recipe, {}, "auto")
        assert any("after all: needs 9 MiB" in n for n in notes)
        assert run.facts["trunk"] == "computed"
        with pytest.raises(SpaceError):
            run_with(recipe, {"trunk": "kept"}, "kept")
        recipe["method"] = {"type": "freeze", "layers": 1}
        with pytest.raises(Interrupted):
            luthier.train(recipe, listener=stopping_at(5))
    resumed = luthier.resume(newest_run(recipe))
    assert resumed.facts["trunk"] == "computed"
    assert resumed.facts["weights_digest"] == run.facts["weights_digest"]


def test_layers_that_still_wait_to_thaw_are_in_every_checkpoint(recipe, cache):
    recipe["training"] |= LONG
    recipe["checkpoints"] = {"every_steps": 3}
    recipe["method"] = {"type": "freeze", "layers": 2, "unfreeze": 0.9}
    whole = endings(luthier.train(recipe))
    with pytest.raises(Interrupted):
        luthier.train(recipe, listener=stopping_at(2))
    assert endings(luthier.resume(newest_run(recipe))) == whole
