"""Token prediction gives plain Hugging Face computation: loss, gradients, weights after updates of several batches."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from torch.utils._python_dispatch import TorchDispatchMode

from luthier.errors import ModelError
from luthier.models import embedding, forward, language
from luthier.models.batch import PADDING_COST_TOKENS, UNGRADED, collate
from luthier.models.config import AUTO
from luthier.models.heads import Head
from luthier.models.load import for_training
from luthier.recipe.sections import Training
from luthier.training.optim import Optimizer
from tests import tiny
from tests.models.test_parity import DEVICES, assert_equal, build

MASKED = [*tiny.ENCODERS, "electra"]
MASK = tiny.SPECIALS.index("[MASK]")
Examples = Sequence[dict[str, list[int]]]


def examples(kind: str, count: int, *, seed: int, share: float = 0.5, high: int = 30) -> Examples:
    """Random texts, about `share` of whose places are graded.

    A causal one holds a pad token, as where it ends documents, and keeps its whole text for the plain computation.
    """
    draw = random.Random(seed)
    made = []
    for text, source in zip(tiny.sentences(count, seed=seed, high=high), tiny.sentences(count, seed=seed + 1000, high=high), strict=True):
        if kind == "masked":
            chosen = [draw.random() < share for _ in text]
            made.append({"input_ids": [MASK if c else t for c, t in zip(chosen, text, strict=True)],
                         "labels": [t if c else UNGRADED for c, t in zip(chosen, text, strict=True)]})  # fmt: skip
            continue
        if kind == "causal":
            text[1] = tiny.DECODER["pad_token_id"]
        graded = [t if draw.random() < share else UNGRADED for t in text]
        if kind == "causal":
            made.append({"input_ids": text[:-1], "labels": graded[1:], "text": text})
        else:
            made.append({"input_ids": [tiny.T5["decoder_start_token_id"], *text[:-1]], "labels": graded, "source_ids": source})
    return made


def padded(rows: Sequence[list[int]], fill: int, device: torch.device) -> torch.Tensor:
    return pad_sequence([torch.tensor(r) for r in rows], batch_first=True, padding_value=fill).to(device)


def plain_sum(model: torch.nn.Module, some: Examples) -> torch.Tensor:
    """Summed cross entropy of the model's own logits on a padded batch."""
    device, pad = next(model.parameters()).device, model.config.pad_token_id
    labels = padded([e["labels"] for e in some], UNGRADED, device)
    name = "source_ids" if "source_ids" in some[0] else "text" if "text" in some[0] else "input_ids"
    inputs = {
        "input_ids": padded([e[name] for e in some], pad, device),
        "attention_mask": padded([[1] * len(e[name]) for e in some], 0, device),
    }
    if name == "source_ids":
        inputs["decoder_input_ids"] = padded([e["input_ids"] for e in some], pad, device)
    logits = model(**inputs).logits[:, : labels.shape[1]]
    return F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=UNGRADED, reduction="sum")


def pair(kind: str, family: str, *, wanted: str = "ragged", apart: bool = False, **changes: object):
    """The same weights twice, the second prepared. T5 may have its head `apart` and its embeddings shared, as version 1.1 has."""
    attention = "eager" if family == "gemma2" else "sdpa"  # soft-capped attention has no SDPA reference
    plain, fast = (build(AUTO[kind], family, attention, **changes) for _ in range(2))
    for model in (plain, fast):
        if apart:
            model.lm_head.weight = torch.nn.Parameter(torch.randn_like(model.lm_head.weight))
        if hasattr(model, "final_logits_bias"):
            model.final_logits_bias.copy_(torch.linspace(-1, 1, tiny.VOCABULARY)[None])
    fast.load_state_dict(plain.state_dict())
    forward.prepare(fast)
    return plain, fast, forward.choose_layout(fast, wanted=wanted, pad_id=fast.config.pad_token_id, kind=kind)


def assert_updates_equal(kind: str, plain, fast, layout, *, device: str = "cpu", kept_head: bool = False) -> None:
    """Updates of one, two and three batches, in the last of which one has nothing graded."""
    plain.to(device)
    kept = for_training(fast, device=torch.device(device), dtype=torch.float32, head=Head(kind))
    head = fast.get_output_embeddings()
    assert hasattr(head.weight, "spare_gradients") == kept_head
    optimizer = Optimizer(fast, Training(weight_decay=0.01, max_grad_norm=1.0), kept=kept)
    groups = [
        {"params": [p for p in plain.parameters() if (p.ndim > 1) is on], "weight_decay": d} for on, d in ((True, 0.01), (False, 0.0))
    ]
    reference = torch.optim.AdamW(groups, lr=1e-4)
    compute = language.masked_loss if kind == "masked" else language.language_loss
    for step, batches in enumerate((1, 2, 3)):
        expected = total = weight = 0.0
        for number in range(batches):
            some = examples(kind, 9, seed=10 * step + number, share=0.0 if number == 2 else 0.5)
            loss = plain_sum(plain, some)
            loss.backward()
            expected += loss.item()
            loss, count = compute(fast, collate(some, types=layout.token_types).to(torch.device(device)), layout)
            loss.backward()
            total += loss.item()
            weight += count
            assert count == sum(x != UNGRADED for e in some for x in e["labels"])
        assert abs(total - expected) / expected < 1e-6
        for parameter in plain.parameters():
            if parameter.grad is not None:
                parameter.grad /= weight
        gradients = [(n, p.grad, q.grad) for (n, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True)]
        assert [n for n, a, _ in gradients if a is None] == [n for n, _, b in gradients if b is None]
        assert_equal([(n, a, b / weight) for n, a, b in gradients if a is not None])
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        reference.step()
        reference.zero_grad()
        optimizer.step(learning_rate=1e-4, weight=weight, norm=optimizer.gradient_norm(weight))
        optimizer.clear()
    assert_equal([(n, p.detach(), q.detach()) for (n, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True)], moved=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kept", [False, True], ids=["small", "kept"])
@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", tiny.DECODERS)
def test_causal_updates_equal_plain_transformers(family, tied, kept, device, monkeypatch):
    if kept:
        monkeypatch.setattr(embedding, "MIN_ELEMENTS", 1)
    plain, fast, layout = pair("causal", family, tie_word_embeddings=tied)
    assert layout.kind == "ragged"
    assert_updates_equal("causal", plain, fast, layout, device=device, kept_head=kept and device == "cpu")


T5_HEADS = [
    ("t5", {}), ("t5", {"tie_word_embeddings": False}), ("t5", {"apart": True, "scale_decoder_outputs": False}),
    ("mt5", {}), ("mt5", {"tie_word_embeddings": False}),
]  # fmt: skip


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kept", [False, True], ids=["small", "kept"])
@pytest.mark.parametrize(("family", "changes"), T5_HEADS, ids=str)
def test_encoder_decoder_updates_equal_plain_transformers(family, changes, kept, device, monkeypatch):
    if kept:
        monkeypatch.setattr(embedding, "MIN_ELEMENTS", 1)
    plain, fast, layout = pair("pairs", family, **changes)
    assert layout.kind == "ragged"
    assert_updates_equal("pairs", plain, fast, layout, device=device, kept_head=kept and device == "cpu")


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize("family", tiny.PAIRS)
def test_padded_encoder_decoder_updates_equal_plain_transformers(family, tied, monkeypatch):
    """Bart takes no positions, and UMT5 computes its attention outside the interface: both fall back."""
    monkeypatch.setattr(embedding, "MIN_ELEMENTS", 1)
    plain, fast, layout = pair("pairs", family, wanted="padded" if family in ("t5", "mt5") else "auto", tie_word_embeddings=tied)
    assert layout.kind == "padded"
    assert layout.reason
    assert_updates_equal("pairs", plain, fast, layout, kept_head=True)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("kept", [False, True], ids=["small", "kept"])
@pytest.mark.parametrize("family", MASKED)
def test_masked_updates_equal_plain_transformers(family, kept, device, monkeypatch):
    if kept:
        monkeypatch.setattr(embedding, "MIN_ELEMENTS", 1)
    plain, fast, layout = pair("masked", family)
    assert layout.kind == "ragged"
    assert_updates_equal("masked", plain, fast, layout, device=device)


class Largest(TorchDispatchMode):
    """Counts tensors made, and remembers the most elements that any of them had."""

    made = elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.made, self.elements = self.made + 1, max(self.elements, tensor.numel())
        return out


def test_no_matrix_of_tokens_by_tokens_is_made_for_t5():
    """Nor are all sources padded to the length of the one that is long."""
    _, fast, layout = pair("pairs", "t5")
    some = examples("pairs", 300, seed=0, high=10)
    some[7]["source_ids"] *= 30
    batch = collate(some)
    tokens = len(batch.input_ids)
    assert tokens > 1900
    with Largest() as ahead:
        loss, _ = language.language_loss(fast, batch, layout)
    with Largest() as back:
        loss.backward()
    for seen in (ahead, back):
        assert seen.made > 100
        assert tokens * tiny.T5["d_model"] <= seen.elements < tokens**2 / 10


@pytest.mark.parametrize("high", [4, 40])
def test_a_bridge_leads_each_target_to_its_source_with_little_padding(high):
    draw = random.Random(0)
    some = [{"input_ids": [i] * draw.randint(1, high), "source_ids": [i] * draw.choice([1, 2, 5, 9, 300])} for i in range(400)]
    batch = collate(some, [10 * i for i in range(400)])
    seen = scores = made = 0
    for crossing in batch.bridge.crossings:
        group = crossing.group
        for row, own in enumerate(batch.rows[seen : seen + group.rows]):
            places = (
                torch.arange(group.length) + group.start + row * group.length
                if group.places is None
                else group.places[row][group.real[row]]
            )
            assert batch.input_ids[places].tolist() == some[own // 10]["input_ids"]
            assert batch.source.input_ids[crossing.places[row][crossing.real[row]]].tolist() == some[own // 10]["source_ids"]
            scores += len(places) * int(crossing.real[row].sum())
        seen, made = seen + group.rows, made + group.rows * group.length * crossing.places.shape[1]
    assert seen == 400
    assert made <= 2 * scores + len(batch.bridge.crossings) * PADDING_COST_TOKENS * 64
    assert len(batch.bridge.crossings) < 60


@pytest.mark.parametrize("rows", [40, 16], ids=["one chunk", "three chunks"])
@pytest.mark.parametrize("softcap", [None, 2.0])
@pytest.mark.parametrize(("smoothing", "z_loss"), [(0.0, 0.0), (0.1, 0.0), (0.0, 0.01), (0.1, 0.01)])
@pytest.mark.parametrize(("bias", "scale", "upstream"), [(False, 1.0, 1.0), (True, 0.5, 0.3)])
def test_linear_cross_entropy_equals_autograd(bias, scale, upstream, smoothing, z_loss, softcap, rows, monkeypatch):
    torch.manual_seed(0)
    hidden, weight, shift = (torch.randn(*shape, requires_grad=True) for shape in ((40, 12), (33, 12), (33,)))
    labels = torch.randint(0, 33, (40,))
    monkeypatch.setattr(language, "CHUNK_LOGITS", 33 * rows)
    logits = scale * hidden @ weight.T + (shift if bias else 0)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    expected = F.cross_entropy(logits, labels, label_smoothing=smoothing, reduction="sum") + z_loss * logits.logsumexp(1).square().sum()
    wanted = [weight, hidden, *([shift] if bias else [])]
    gradients = torch.autograd.grad(upstream * expected, wanted)
    head = language.LinearHead(weight, shift if bias else None, scale, softcap)
    made = language._LinearCrossEntropy.apply(hidden, weight, head.bias, labels, head, language._Grades(smoothing, z_loss))
    torch.testing.assert_close(made, expected, rtol=1e-6, atol=0)
    for mine, right in zip(torch.autograd.grad(upstream * made, wanted), gradients, strict=True):
        assert (mine - right).norm() / right.norm() < 1e-6


def test_several_losses_of_a_kept_head_may_be_open_at_once():
    """As where a loss compares two passes: none's gradient is written over by another's, and no more buffers are made than are open."""
    torch.manual_seed(0)
    weight = torch.nn.Parameter(torch.randn(33, 12))
    reference = weight.detach().clone().requires_grad_()
    language.keep_gradient(weight)
    buffers: list[torch.Tensor] = []
    for _ in range(3):
        losses = []
        for _ in range(3):
            hidden, labels = torch.randn(20, 12), torch.randint(0, 33, (20,))
            F.cross_entropy(hidden @ reference.T, labels, reduction="sum").backward()
            head = language.LinearHead(weight, None, 1.0, None)
            losses.append(language._LinearCrossEntropy.apply(hidden, weight, None, labels, head, language._Grades(0.0, 0.0)))
        torch.stack(losses).sum().backward()
        torch.testing.assert_close(weight.grad, reference.grad, rtol=1e-5, atol=1e-5)
        buffers += [weight.grad, *weight.spare_gradients]
        assert len(weight.spare_gradients) == 2
        weight.grad = reference.grad = None
    assert len({id(b) for b in buffers}) == 3


HEADS = [("causal", f) for f in ("gpt2", "llama", "gemma2", "cohere", "granite", "hyperclovax")] + [("pairs", f) for f in tiny.PAIRS]


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(("kind", "family"), HEADS)
def test_head_of_gives_the_models_own_logits(kind, family, tied):
    plain, fast, layout = pair(kind, family, tie_word_embeddings=tied, wanted="auto")
    some = examples(kind, 1, seed=0)
    inputs = {"input_ids": torch.tensor([some[0]["input_ids"]])}
    if kind == "pairs":
        inputs = {"input_ids": torch.tensor([some[0]["source_ids"]]), "decoder_input_ids": inputs["input_ids"]}
    with torch.no_grad():
        mine = language.head_of(fast).logits(forward.hidden_states(fast, collate(some), layout))
        torch.testing.assert_close(mine, plain(**inputs).logits[0], rtol=1e-5, atol=1e-5)
    language.verify_head(fast, layout)
    assert fast.training
    assert fast.config._attn_implementation == ("ragged" if layout.kind == "ragged" else "sdpa")


@pytest.mark.parametrize(("name", "value"), [("logit_scale", 3.0), ("final_logit_softcapping", 1.0)])
def test_a_head_that_is_read_wrong_is_refused(name, value):
    _, fast, layout = pair("causal", "llama")
    setattr(fast.config, name, value)  # as an architecture might have it and use it otherwise
    with pytest.raises(ModelError, match="computes its logits in a way that is not known here"):
        language.verify_head(fast, layout)


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
@pytest.mark.parametrize(
    ("kind", "family"), [("causal", "llama"), ("causal", "gemma2"), ("causal", "gpt2"), ("pairs", "t5"), ("pairs", "bart")]
)
def test_bfloat16_weights_beside_fp32_tables_come_near_fp32(kind, family, tied, monkeypatch):
    monkeypatch.setattr(embedding, "MIN_ELEMENTS", 1)
    plain, fast, layout = pair(kind, family, tie_word_embeddings=tied, wanted="auto")
    kept = for_training(fast, device=torch.device("cpu"), dtype=torch.bfloat16, head=Head(kind))
    some = examples(kind, 9, seed=0)
    expected = plain_sum(plain, some)
    expected.backward()
    loss, _ = language.language_loss(fast, collate(some), layout)
    loss.backward()
    assert abs(loss.item() - expected.item()) / expected.item() < 5e-3
    mine, right = plain.get_output_embeddings().weight.grad, fast.get_output_embeddings().weight.grad
    assert right.dtype == torch.float32
    assert (mine - right).norm() / mine.norm() < 0.05
    assert all(table.weight.dtype == torch.float32 for table in kept)
