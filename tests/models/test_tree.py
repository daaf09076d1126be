"""A prompt with its continuations as a tree gives what separate sequences give: values, loss and gradients."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from luthier.data.tokens import assemble_tokens
from luthier.models import attention, embedding, forward, language
from luthier.models.batch import BRANCH, UNGRADED, collate
from luthier.models.config import AUTO
from luthier.models.heads import Head
from luthier.models.load import for_training
from luthier.models.logprobs import _LogProbs, segment_logprobs
from tests import tiny
from tests.models.test_parity import DEVICES, assert_equal, build

FAMILIES = ("llama", "gpt2", "opt", "qwen2", "qwen3", "mistral", "gemma2")
Texts = list[tuple[list[int], list[list[int]]]]


def texts(k: int, *, seed: int = 0, low: int = 1) -> Texts:
    """Prompts of unequal length, one of them a single token, each with k continuations of unequal length."""
    draw = random.Random(seed)
    prompts = [[7], *tiny.sentences(4, seed=seed, low=2, high=22)]
    return [(p, tiny.sentences(k, seed=draw.randrange(10**6), low=low, high=14)) for p in prompts]


def tree(prompt: list[int], continuations: list[list[int]]) -> dict[str, list[int]]:
    """The stem ends before the prompt's last token, which every branch begins with: its first target follows from it."""
    stem, ids, labels, marks = prompt[:-1], [], [], []
    for number, said in enumerate(continuations, 1):
        ids += [prompt[-1], *said[:-1]]
        labels += said
        marks += [number] * len(said)
    return {"input_ids": [*stem, *ids], "labels": [UNGRADED] * len(stem) + labels, BRANCH: [0] * len(stem) + marks}


def plain_sums(model: torch.nn.Module, some: Texts) -> torch.Tensor:
    """Log-probability of each continuation after its prompt, (prompts, k), from the model's own logits on padded rows."""
    device = next(model.parameters()).device
    rows = [(len(p), torch.tensor([*p, *c], device=device)) for p, many in some for c in many]
    ids = pad_sequence([ids for _, ids in rows], batch_first=True, padding_value=model.config.pad_token_id)
    mask = pad_sequence([torch.ones_like(ids) for _, ids in rows], batch_first=True)
    found = torch.log_softmax(model(input_ids=ids, attention_mask=mask).logits[:, :-1].float(), -1)
    each = found.gather(2, ids[:, 1:, None])[..., 0]
    return torch.stack([e[n - 1 : len(row) - 1].sum() for e, (n, row) in zip(each, rows, strict=True)]).view(len(some), -1)


def tree_sums(model: torch.nn.Module, layout: forward.Layout, some: Texts) -> torch.Tensor:
    """The same from one tree batch."""
    batch = collate([tree(*one) for one in some]).to(next(model.parameters()).device)
    said, branch = segment_logprobs(model, batch, layout), batch.layers[BRANCH][batch.segments.starts].tolist()
    places = {(row, b): i for i, (row, b) in enumerate(zip(batch.rows, branch, strict=True))}
    return torch.stack([torch.stack([said.sums[places[row, b]] for b in range(1, len(c) + 1)]) for row, (_, c) in enumerate(some)])


def judged(sums: torch.Tensor) -> torch.Tensor:
    """Something that weighs every continuation differently, and not in proportion."""
    return (
        -F.logsigmoid(0.1 * (sums[:, :1] - sums[:, 1:])).sum() + (sums * torch.linspace(0.1, 0.3, sums.shape[1], device=sums.device)).sum()
    )


def pair(family: str, *, wanted: str = "ragged", lora: bool = False, **changes: object):
    """The same weights twice, the second prepared; with `lora` adapters that have learned something are all that trains."""
    plain, fast = (build(AUTO["causal"], family, "eager" if family == "gemma2" else "sdpa", **changes) for _ in range(2))
    if lora:
        import peft

        for model in (plain, fast):
            torch.manual_seed(1)
            fan_in = family == "gpt2"
            peft.inject_adapter_in_model(
                peft.LoraConfig(r=4, target_modules="all-linear" if not fan_in else ["c_attn", "c_fc"], fan_in_fan_out=fan_in), model
            )
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    torch.nn.init.normal_(parameter, std=0.1)
    forward.prepare(fast)
    return plain, fast, forward.choose_layout(fast, wanted=wanted, pad_id=fast.config.pad_token_id, kind="causal", trees=True)


def assert_same(plain, fast, layout, some: Texts) -> None:
    """Equal sums, loss and gradients."""
    expected, found = plain_sums(plain, some), tree_sums(fast, layout, some)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-4)
    losses = judged(expected), judged(found)
    assert abs(losses[1].item() - losses[0].item()) < 1e-5 * abs(losses[0].item())
    for loss in losses:
        loss.backward()
    gradients = [(n, p.grad, q.grad) for (n, p), q in zip(plain.named_parameters(), fast.parameters(), strict=True)]
    assert [n for n, a, _ in gradients if a is None] == [n for n, _, b in gradients if b is None]
    assert_equal([(n, a, b) for n, a, b in gradients if a is not None])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("lora", [False, True], ids=["full", "lora"])
@pytest.mark.parametrize("k", [2, 8])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_tree_equals_separate_sequences(family, k, lora, device):
    plain, fast, layout = pair(family, lora=lora)
    assert (layout.kind, layout.trees, layout.apart) == ("ragged", True, "")
    plain.to(device)
    for_training(fast, device=torch.device(device), dtype=torch.float32, head=Head("causal"))
    assert_same(plain, fast, layout, texts(k))


@pytest.mark.parametrize("tied", [True, False], ids=["tied", "untied"])
def test_a_kept_head_and_small_chunks_change_nothing(tied, monkeypatch):
    monkeypatch.setattr(embedding, "MIN_ELEMENTS", 1)
    monkeypatch.setattr(language, "CHUNK_LOGITS", 16 * tiny.VOCABULARY)
    for dense, chunk in ((attention.DENSE_LENGTH, 1), (attention.DENSE_LENGTH, 2000), (16, 1 << 20), (0, 1 << 20)):
        monkeypatch.setattr(attention, "DENSE_LENGTH", dense)
        monkeypatch.setattr(attention, "CHUNK_SCORES", chunk)
        plain, fast, layout = pair("llama", tie_word_embeddings=tied)
        for_training(fast, device=torch.device("cpu"), dtype=torch.float32, head=Head("causal"))
        assert hasattr(fast.get_output_embeddings().weight, "spare_gradients")
        assert_same(plain, fast, layout, texts(3))


@pytest.mark.parametrize("way", ["padded", "ragged"])
@pytest.mark.parametrize("family", ["llama", "opt"])
def test_without_trees_every_branch_has_a_stem_of_its_own(family, way):
    plain, fast, layout = pair(family, wanted=way)
    if way == "padded":
        assert (layout.trees, layout.apart) == (False, "batches are padded")
    assert_same(plain, fast, replace(layout, trees=False), texts(3))


def test_a_model_that_looks_ahead_takes_no_trees_and_says_why():
    model = build(AUTO["masked"], "bert", "sdpa")
    forward.prepare(model)
    layout = forward.choose_layout(model, wanted="ragged", pad_id=0, kind="masked", trees=True)
    assert layout.kind == "ragged"
    assert not layout.trees
    assert "differ from whole sequences" in layout.apart


def test_a_tree_is_computed_once():
    """Tokens, positions and parents are those of one stem and its branches."""
    some = [([5, 6, 7, 8], [[9, 10], [11, 12, 13]]), ([5], [[6], [7, 8]]), ([9, 10, 11], [[12, 13, 14, 15]])]
    batch = collate([tree(*one) for one in some], [4, 2, 9])
    assert batch.tokens == sum(len(p) - 1 + sum(len(c) for c in many) for p, many in some)
    found = {}
    for i, (start, length) in enumerate(zip(batch.segments.starts.tolist(), batch.segments.lengths.tolist(), strict=True)):
        parent = int(batch.segments.parents[i])
        ids = batch.input_ids[start : start + length].tolist()
        begin = 0 if parent < 0 else int(batch.segments.lengths[parent])
        assert batch.positions[start : start + length].tolist() == list(range(begin, begin + length))
        assert parent < 0 or batch.rows[parent] == batch.rows[i]
        found.setdefault(batch.rows[i], []).append((int(batch.layers[BRANCH][start]), parent >= 0, ids))
    assert {row: sorted(parts) for row, parts in found.items()} == {
        4: [(0, False, [5, 6, 7]), (1, True, [8, 9]), (2, True, [8, 11, 12])],
        2: [(1, False, [5]), (2, False, [5, 7])],
        9: [(0, False, [9, 10]), (1, True, [11, 12, 13, 14])],
    }
    assert sum(f.group.rows for f in batch.segments.forks) == 3
    with pytest.raises(ValueError, match="no tokens"):
        collate([{"input_ids": [], "labels": [], BRANCH: []}])


def test_learned_tokens_stand_once_before_the_stem():
    made = [tree(*one) for one in [([5, 6, 7], [[9, 10], [11]]), ([5], [[6], [7, 8]])]]
    after = assemble_tokens(made).after([50, 51]).examples()
    assert [e["input_ids"].tolist() for e in after] == [[50, 51, *m["input_ids"]] for m in made]
    assert [e[BRANCH].tolist() for e in after] == [[0, 0, *m[BRANCH]] for m in made]
    assert [e["labels"].tolist() for e in after] == [[UNGRADED] * 2 + m["labels"] for m in made]


@pytest.mark.parametrize("learns", ["hidden", "head", "both"])
@pytest.mark.parametrize("rows", [40, 16], ids=["one chunk", "three chunks"])
@pytest.mark.parametrize(("bias", "scale", "softcap"), [(False, 1.0, None), (True, 0.5, None), (True, 1.0, 2.0)])
def test_log_probabilities_equal_autograd(bias, scale, softcap, rows, learns, monkeypatch):
    torch.manual_seed(0)
    hidden, weight, shift = (torch.randn(*shape) for shape in ((40, 12), (33, 12), (33,)))
    hidden.requires_grad_(learns != "head")
    for tensor in (weight, shift):
        tensor.requires_grad_(learns != "hidden")
    labels, upstream = torch.randint(0, 33, (40,)), torch.randn(40)
    monkeypatch.setattr(language, "CHUNK_LOGITS", 33 * rows)
    logits = scale * hidden @ weight.T + (shift if bias else 0)
    if softcap:
        logits = softcap * torch.tanh(logits / softcap)
    expected = torch.log_softmax(logits, 1).gather(1, labels[:, None])[:, 0]
    head = language.LinearHead(weight, shift if bias else None, scale, softcap)
    found = _LogProbs.apply(hidden, weight, head.bias, labels, head)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    wanted = [t for t in (hidden, weight, *([shift] if bias else [])) if t.requires_grad]
    for mine, right in zip(*(torch.autograd.grad((upstream * x).sum(), wanted) for x in (found, expected)), strict=True):
        assert (mine - right).norm() / right.norm() < 1e-6
