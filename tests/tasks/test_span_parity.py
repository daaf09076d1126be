"""Windows, loss, gradients and best spans are those of plain transformers."""

from __future__ import annotations

import itertools
import random

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

from luthier.data.prepare import Record
from luthier.models.batch import collate, segments_of
from luthier.models.heads import Head
from luthier.models.load import forward_layout, quiet
from luthier.models.span import segment_logsumexp, span_figures, span_loss
from luthier.recipe.sections import Data
from luthier.recipe.tasks.span import SpanOptions
from luthier.tasks.span import Span
from luthier.tasks.squad import Answers
from tests import tiny
from tests.models.test_parity import NO_DROPOUT


@pytest.fixture(autouse=True)
def _plain_products():
    """Parity is measured with torch's own matrix library."""
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "none"
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before


def task(**options) -> Span:
    return Span(SpanOptions(**options), Data(train=["none"], text="context", text_pair="question"))


def records(count: int, *, seed: int = 0, low: int = 5, high: int = 60) -> list[Record]:
    """Passages with an answer in them; every third has none."""
    draw = random.Random(seed)
    found = []
    for i in range(count):
        words = [draw.choice(tiny.WORDS) for _ in range(draw.randint(low, high))]
        first = draw.randrange(len(words))
        last = min(len(words), first + draw.randint(1, 4))
        start = len(" ".join([*words[:first], ""])) if first else 0
        text = " ".join(words[first:last])
        target = Answers((), -1, -1, False, "") if i % 3 == 2 else Answers((text,), start, start + len(text), False, "")
        found.append(Record(" ".join(words), " ".join(draw.choice(tiny.WORDS) for _ in range(draw.randint(1, 6))), target, "f", i))
    return found


def model_of(family: str) -> hf.PreTrainedModel:
    """A tiny model in training mode without dropout, all its weights random; the same at every call."""
    made = tiny.config(family, **{k: v for k, v in {**NO_DROPOUT, "qa_dropout": 0.0}.items() if hasattr(tiny.config(family), k)})
    torch.manual_seed(0)
    with quiet():
        model = hf.AutoModelForQuestionAnswering.from_config(made, attn_implementation="sdpa")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model.train()


def byte_level() -> hf.PreTrainedTokenizerFast:
    """Byte-level BPE as RoBERTa has it: spaces inside tokens, characters cut into several."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400, special_tokens=["<s>", "<pad>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([" ".join(tiny.WORDS)] * 3, trainer)
    backend.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=True, add_prefix_space=False)
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", cls_token="<s>", sep_token="</s>", model_max_length=64)


@pytest.mark.parametrize("make", [tiny.tokenizer, byte_level, lambda: tiny.tokenizer("gpt2")], ids=["bert", "roberta", "gpt2"])
def test_windows_are_those_of_the_tokenizer(make):
    tokenizer, rows = make(), records(12)
    found = task(stride=7).encode(rows, tokenizer, config=None, max_length=40).tokens
    examples, at = found.examples(), 0
    for index, record in enumerate(rows):
        plain = tokenizer(
            record.pair, record.text, truncation="only_second", max_length=40, stride=7,
            return_overflowing_tokens=True, return_offsets_mapping=True, return_token_type_ids=True,
        )  # fmt: skip
        for place, ids in enumerate(plain["input_ids"]):
            mine, sides = examples[at], plain.sequence_ids(place)
            assert mine["input_ids"].tolist() == ids
            assert mine["token_type_ids"].tolist() == plain["token_type_ids"][place]
            assert found.owner[at] == index
            for i, (side, (begin, end)) in enumerate(zip(sides, plain["offset_mapping"][place], strict=True)):
                if side == 1 and record.text[begin:end].strip():
                    inner = record.text[begin:end]
                    assert record.text[mine["begins"][i] : mine["ends"][i]] == inner.strip()
                    assert begin <= mine["begins"][i] < mine["ends"][i] <= end
                else:
                    assert mine["begins"][i] < 0
            at += 1
    assert at == len(examples)
    assert at > len(rows)


@pytest.mark.parametrize("kind", ["ragged", "padded"])
@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "electra", "modernbert", "gpt2", "llama"])
def test_loss_and_gradients_are_those_of_transformers(family, kind):
    plain, fast = model_of(family), model_of(family)
    made = plain.config
    layout = forward_layout(fast, wanted=kind, pad_id=made.get_text_config().pad_token_id, head=Head("span"))
    assert layout.kind == kind
    fast.train()
    tokenizer = tiny.tokenizer(family)
    examples = task(stride=5).encode(records(8), tokenizer, config=made, max_length=40).tokens.examples()
    total = torch.zeros(())
    for example in examples:
        edges = torch.from_numpy(example["edges"].copy())
        inputs = {"input_ids": torch.from_numpy(example["input_ids"].copy()).long()[None]}
        if layout.token_types:
            inputs["token_type_ids"] = torch.from_numpy(example["token_type_ids"].copy()).long()[None]
        at = {"start_positions": (edges & 1).argmax()[None], "end_positions": ((edges & 2) > 0).int().argmax()[None]}
        total = total + plain(**inputs, **at).loss
    total.backward()
    batch = collate(list(examples), types=layout.token_types)
    mine = span_loss(fast, batch, layout)
    assert len(mine) == len(examples)
    mine.sum().backward()
    assert float(((mine.sum() - total) / total).detach().abs()) < 1e-5
    theirs = {n: p.grad for n, p in plain.named_parameters() if p.grad is not None}
    ours = {n: p.grad for n, p in fast.named_parameters() if p.grad is not None}
    assert theirs.keys() == ours.keys()
    norm = torch.cat([g.flatten() for g in theirs.values()]).norm()
    off = torch.cat([(theirs[n] - ours[n]).flatten() for n in theirs]).norm()
    assert float(off / norm) < 1e-5


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6).map(sorted), st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_the_partition_stays_within_each_segment(lengths, seed):
    values = 30 * torch.randn(sum(lengths), 2, generator=torch.Generator().manual_seed(seed))
    expected = torch.stack([part.logsumexp(0) for part in values.split(lengths)])
    assert torch.allclose(segment_logsumexp(values, segments_of(lengths)), expected, atol=1e-5)


@pytest.mark.parametrize(("longest", "candidates"), [(1, 3), (4, 5), (30, 12), (100, 100)])
def test_the_best_spans_are_the_best_of_all(longest, candidates):
    model, reference = model_of("bert").eval(), model_of("bert").eval()
    layout = forward_layout(model, wanted="auto", pad_id=0, head=Head("span"))
    examples = list(task(stride=5).encode(records(6), tiny.tokenizer(), config=None, max_length=32).tokens.examples())
    batch = collate(examples, types=layout.token_types)
    with torch.no_grad():
        found = span_figures(model, batch, layout, longest=longest, candidates=candidates).numpy()
    assert found.shape == (len(examples), 4 + 3 * candidates)
    for row, line in zip(batch.rows, found, strict=True):
        example = examples[row]
        with torch.no_grad():
            plain = reference(
                input_ids=torch.from_numpy(example["input_ids"].copy()).long()[None],
                token_type_ids=torch.from_numpy(example["token_type_ids"].copy()).long()[None],
            )
        start, end = plain.start_logits[0].numpy(), plain.end_logits[0].numpy()
        inside = np.flatnonzero(example["begins"] >= 0)
        pairs = [
            (start[i] + end[j], example["begins"][i], example["ends"][j])
            for i, j in itertools.product(inside, inside)
            if i <= j < i + longest
        ]
        best = sorted(pairs, reverse=True)[:candidates]
        mine = line[4:].reshape(-1, 3)
        whole = plain.start_logits.logsumexp(1) + plain.end_logits.logsumexp(1)
        assert np.allclose(mine[: len(best), 0], [b[0] for b in best], atol=1e-4)
        assert np.allclose(line[2:4], [float(whole), start[0] + end[0]], atol=1e-4)
        assert (mine[0, 1], mine[0, 2]) == best[0][1:]
        assert (mine[len(best) :, 1] == -1).all()


TEXT = st.text(st.sampled_from("ab é\u0301ßẞ😀👩\u200d🚀中文 \u00a0\tİı.,\n"), min_size=1, max_size=40)


@given(TEXT, st.data())
@settings(deadline=None, max_examples=150)
def test_characters_are_exact_whatever_they_are(passage, data):
    """The graded tokens cover the answer, and nothing beside it but what shares a token with it."""
    start = data.draw(st.integers(0, len(passage) - 1))
    end = data.draw(st.integers(start + 1, len(passage)))
    text = passage[start:end]
    bare = text.strip()
    if not bare:
        return
    start += len(text) - len(text.lstrip())
    target = Answers((bare,), start, start + len(bare), False, "")
    for tokenizer in TOKENIZERS:
        found = task().encode([Record(passage, "who a", target, "f", 1)], tokenizer, config=None, max_length=300)
        if found.rejected:
            continue
        example = found.tokens.examples()[0]
        begins, ends, edges = example["begins"], example["ends"], example["edges"]
        first, last = int((edges & 1).argmax()), int(((edges & 2) > 0).argmax())
        if first == 0:  # the answer has no token of its own: control characters alone
            continue
        inside = [(int(b), int(e)) for b, e in zip(begins, ends, strict=True) if b >= 0]
        assert all(0 <= b < e <= len(passage) for b, e in inside)
        assert begins[first] < target.end
        assert ends[last] > target.start
        assert all(b >= target.end or e <= target.start or (begins[first] <= b and e <= ends[last]) for b, e in inside)


def _wordpiece() -> hf.PreTrainedTokenizerFast:
    """BERT's own normaliser, which strips accents and lowers case, over single characters."""
    from tokenizers import BertWordPieceTokenizer

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abeis.,中文", *[f"##{c}" for c in "abeis"]]
    backend = BertWordPieceTokenizer(vocab={w: i for i, w in enumerate(words)}, lowercase=True)
    return hf.PreTrainedTokenizerFast(tokenizer_object=backend._tokenizer, pad_token="[PAD]", cls_token="[CLS]", unk_token="[UNK]")


TOKENIZERS = [byte_level(), _wordpiece()]
