"""Ragged batches give plain Hugging Face computation: loss, gradients, weights after three steps."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from luthier.models import forward
from luthier.models.attention import DENSE_LENGTH
from luthier.models.batch import collate
from luthier.models.load import for_training, quiet
from luthier.recipe.sections import Training
from luthier.training.optim import Optimizer
from tests import tiny

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
EACH = {"cpu": 1e-6, "cuda": 3e-6}  # a GPU adds up a short product in another order than a long one: 1.2e-6 was seen
FAMILIES = [*tiny.ENCODERS, *tiny.DECODERS, "electra"]
NO_DROPOUT = {
    "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, "dropout": 0.0, "attention_dropout": 0.0, "resid_pdrop": 0.0,
    "embd_pdrop": 0.0, "attn_pdrop": 0.0, "classifier_dropout": 0.0, "seq_classif_dropout": 0.0, "mlp_dropout": 0.0,
    "embedding_dropout": 0.0, "activation_dropout": 0.0, "layerdrop": 0.0, "dropout_rate": 0.0,
}  # fmt: skip


def build(auto: type, family: str, attention: str, **changes: object) -> torch.nn.Module:
    """A tiny model in training mode without dropout, all its weights random; the same at every call."""
    made = tiny.config(family, **{k: v for k, v in NO_DROPOUT.items() if hasattr(tiny.config(family), k)}, **changes)
    torch.manual_seed(0)
    with quiet():
        model = auto.from_config(made, attn_implementation=attention)
    with torch.no_grad():
        for parameter in model.parameters():  # away from symmetric starts, so that every path has a gradient
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.train()


def classifier(family: str, attention: str, **changes: object) -> torch.nn.Module:
    return build(hf.AutoModelForSequenceClassification, family, attention, num_labels=3, **changes)


def plain_loss(model: torch.nn.Module, rows: list[list[int]], labels: torch.Tensor) -> torch.Tensor:
    pad = model.config.get_text_config().pad_token_id
    longest = max(map(len, rows))
    ids = torch.tensor([r + [pad] * (longest - len(r)) for r in rows])
    mask = torch.tensor([[1] * len(r) + [0] * (longest - len(r)) for r in rows])
    device = next(model.parameters()).device
    return model(input_ids=ids.to(device), attention_mask=mask.to(device), labels=labels.to(device)).loss


def ragged_loss(model, layout, rows, labels):
    batch = collate([{"input_ids": r} for r in rows], types=layout.token_types)
    device = next(model.parameters()).device
    logits = forward.pooled_logits(model, batch.to(device), layout)
    return torch.nn.functional.cross_entropy(logits, labels[list(batch.rows)].to(device), reduction="sum"), len(rows)


def pair(family: str):
    eager = family in ("gemma2",)  # soft-capped attention has no SDPA reference
    plain = classifier(family, "eager" if eager else "sdpa")
    fast = classifier(family, "eager" if eager else "sdpa")
    fast.load_state_dict(plain.state_dict())
    forward.prepare(fast)
    layout = forward.choose_layout(fast, wanted="ragged", pad_id=fast.config.get_text_config().pad_token_id)
    return plain, fast, layout


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("family", FAMILIES)
def test_loss_gradient_and_three_steps_equal_plain_transformers(family, device):
    plain, fast, layout = pair(family)
    plain.to(device)
    kept = for_training(fast, device=torch.device(device), dtype=torch.float32)
    optimizer = Optimizer(fast, Training(weight_decay=0.01, max_grad_norm=1.0), kept=kept)
    groups = [
        {"params": [p for p in plain.parameters() if (p.ndim > 1) is on], "weight_decay": d} for on, d in ((True, 0.01), (False, 0.0))
    ]
    reference = torch.optim.AdamW(groups, lr=1e-4)
    for step in range(3):
        rows, labels = tiny.sentences(9, seed=step), torch.arange(9) % 3
        loss = plain_loss(plain, rows, labels)
        loss.backward()
        total, weight = ragged_loss(fast, layout, rows, labels)
        total.backward()
        assert abs(total.item() / weight - loss.item()) < 1e-6
        gradients = [(n, p.grad, q.grad) for (n, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True)]
        assert all((a is None) == (b is None) for _, a, b in gradients)
        assert_equal([(n, a, b / weight) for n, a, b in gradients if a is not None], each=EACH[device])
        torch.nn.utils.clip_grad_norm_(plain.parameters(), 1.0)
        reference.step()
        reference.zero_grad()
        optimizer.step(learning_rate=1e-4, weight=weight, norm=optimizer.gradient_norm(weight))
        optimizer.clear()
    assert_equal(
        [(n, p.detach(), q.detach()) for (n, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True)],
        moved=True,
        each=EACH[device],
    )


def assert_equal(tensors: list[tuple[str, torch.Tensor, torch.Tensor]], *, moved: bool = False, each: float = 1e-6) -> None:
    """Global relative norm under 1e-5, each tensor within 1e-6 of the global norm.

    Weights that Adam has `moved` are exempt from the second bound where their true gradient is zero:
    a key bias shifts all scores of a query alike, so Adam divides rounding noise by its own size.
    """
    norm = torch.sqrt(sum((a.double() ** 2).sum() for _, a, _ in tensors))
    differences = {n: float((b.double() - a.double()).norm() / norm) for n, a, b in tensors}
    assert sum(d**2 for d in differences.values()) ** 0.5 < 1e-5
    held = {n: d for n, d in differences.items() if not (moved and _key_bias(n))}
    worst = max(held, key=lambda n: held[n])
    assert held[worst] < each, worst


def _key_bias(name: str) -> bool:
    return name.endswith(("key.bias", "k_lin.bias", "k_proj.bias", "c_attn.bias"))


def test_an_accelerator_has_fewer_groups_and_the_same_attention():
    """The groups that a batch has on a GPU, and what attention gives with them; here on the CPU."""
    from luthier.models.attention import ragged_attention
    from luthier.models.segments import ACCELERATED, PADDING_COST_TOKENS, segments_of

    draw = torch.Generator().manual_seed(0)
    lengths = sorted(torch.randint(1, 200, (24,), generator=draw).tolist())
    parents = [-1] * 12 + [i // 2 for i in range(12)]
    for stems in (None, parents):
        here = segments_of(lengths, stems)
        wide = segments_of(lengths, stems, cost=ACCELERATED * PADDING_COST_TOKENS)
        there = here.to(torch.device("meta"))
        assert len(there.groups) == len(wide.groups) < len(here.groups)
        assert len(there.forks) == len(wide.forks) <= len(here.forks)
        q, k, v = (torch.randn(1, 2, sum(lengths), 8, generator=draw) for _ in range(3))
        layer = torch.nn.Module()
        for causal in (False, True):
            found, expected = (ragged_attention(layer, q, k, v, None, segments=s, is_causal=causal)[0] for s in (wide, here))
            assert torch.allclose(found, expected, atol=1e-5)


def test_long_segments_go_through_sdpa_and_agree(monkeypatch):
    from luthier.models import attention

    for family in ("bert", "llama", "mistral", "gemma2"):
        plain, fast, layout = pair(family)
        rows, labels = tiny.sentences(9), torch.arange(9) % 3
        dense = ragged_loss(fast, layout, rows, labels)[0]
        monkeypatch.setattr(attention, "DENSE_LENGTH", 12)
        mixed = ragged_loss(fast, layout, rows, labels)[0]
        monkeypatch.setattr(attention, "DENSE_LENGTH", 0)
        alone = ragged_loss(fast, layout, rows, labels)[0]
        assert torch.allclose(dense, mixed, atol=1e-5)
        assert torch.allclose(dense, alone, atol=1e-5)
        monkeypatch.setattr(attention, "DENSE_LENGTH", DENSE_LENGTH)


def test_chunks_of_a_group_agree(monkeypatch):
    from luthier.models import attention

    for chunk in (1, 300, 3000):
        monkeypatch.setattr(attention, "CHUNK_SCORES", chunk)
        plain, fast, layout = pair("llama")
        rows = [r[:10] if i % 2 else r for i, r in enumerate(tiny.sentences(12))]
        labels = torch.arange(12) % 3
        loss = plain_loss(plain, rows, labels)
        loss.backward()
        total, weight = ragged_loss(fast, layout, rows, labels)
        total.backward()
        for (name, a), (_, b) in zip(plain.named_parameters(), fast.named_parameters(), strict=True):
            if a.grad is not None:
                assert torch.allclose(a.grad, b.grad / weight, atol=2e-6), name


def test_a_model_outside_the_interface_is_padded_with_its_reason():
    model = classifier("deberta", "eager")
    forward.prepare(model)
    layout = forward.choose_layout(model, wanted="auto", pad_id=0)
    assert layout.kind == "padded"
    assert layout.reason
    rows, labels = tiny.sentences(7), torch.arange(7) % 3
    total, weight = ragged_loss(model, layout, rows, labels)
    assert abs(float(total) / weight - float(plain_loss(model, rows, labels))) < 1e-6


@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_padded_and_ragged_give_the_same_logits(family):
    plain, fast, layout = pair(family)
    batch = collate([{"input_ids": r} for r in tiny.sentences(6)], types=layout.token_types)
    padded = forward.Layout("padded", layout.pooling, token_types=layout.token_types, pad_id=layout.pad_id)
    with torch.no_grad():
        assert torch.allclose(
            forward.pooled_logits(fast.eval(), batch, layout), forward.pooled_logits(plain.eval(), batch, padded), atol=2e-6
        )


def test_mean_pooling_of_modernbert_equals_transformers():
    plain = classifier("modernbert", "sdpa", classifier_pooling="mean")
    fast = classifier("modernbert", "sdpa", classifier_pooling="mean")
    forward.prepare(fast)
    layout = forward.choose_layout(fast, wanted="ragged", pad_id=0)
    assert layout.pooling == "mean"
    rows, labels = tiny.sentences(8), torch.arange(8) % 3
    total, weight = ragged_loss(fast, layout, rows, labels)
    assert abs(float(total) / weight - float(plain_loss(plain, rows, labels))) < 1e-6
