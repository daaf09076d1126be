"""Generation against transformers' own, and what a request is promised: its seed, its stops, its room."""

from __future__ import annotations

import pytest
import torch
import transformers as hf

from luthier.errors import LuthierError, ModelError
from luthier.inference.generate import Sampling, beams, generate, stream
from luthier.models import forward
from luthier.models.scratch import train_tokenizer
from luthier.recipe.sections import Scratch
from tests import tiny

STOP = 3
TEXTS = ["the café was warm, the naïve cat sat on the mat 日本語 😀 and wrote 12 letters. " * 3, "a film is a film; ünïcödé çhärs"]


def build(family: str, *, vocabulary: int = tiny.VOCABULARY, seed: int = 0, spread: float = 8.0, **changes: object) -> hf.PreTrainedModel:
    """A model whose random weights are large and whose head is its own, so that what it writes varies."""
    torch.manual_seed(seed)
    changes = {"tie_word_embeddings": False, **changes}
    if family in ("t5", "bart"):
        sizes = {
            "vocab_size": vocabulary,
            "d_model": 32,
            "pad_token_id": 0,
            "eos_token_id": STOP,
            "decoder_start_token_id": 0,
            "num_layers": 2,
            **changes,
        }
        if family == "t5":
            config = hf.T5Config(**sizes, d_kv=8, d_ff=48, num_heads=4, feed_forward_proj="gated-gelu")
        else:
            config = hf.BartConfig(**sizes, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
                                   decoder_ffn_dim=48, max_position_embeddings=64, bos_token_id=2, forced_eos_token_id=None)  # fmt: skip
        model = hf.AutoModelForSeq2SeqLM.from_config(config)
    else:
        config = tiny.config(family, vocab_size=vocabulary, **changes)
        model = hf.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(spread)
    return model.eval()


def prompts(count: int = 5, *, seed: int = 1, high: int = 20) -> list[list[int]]:
    return [[2, *p] for p in tiny.sentences(count, seed=seed, low=1, high=high)]


def by_transformers(model: hf.PreTrainedModel, prompt: list[int], **options: object) -> list[int]:
    """What plain `model.generate` writes after one prompt, up to the stop token."""
    wish = hf.GenerationConfig(**{"do_sample": False, "max_new_tokens": 20, "eos_token_id": STOP, "pad_token_id": 0, **options})
    ids = torch.tensor([prompt])
    found = model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), generation_config=wish)[0].tolist()
    found = found[1:] if model.config.is_encoder_decoder else found[len(prompt) :]
    return found[: found.index(STOP)] if STOP in found else found


def write(model, asked, wish, *, tokenizer=None, stop_ids=(STOP,), max_length=64, **options):
    return generate(model, tokenizer or tiny.tokenizer("llama"), asked, wish, stop_ids=stop_ids, max_length=max_length, **options)


@pytest.fixture(scope="module")
def bytewise() -> hf.PreTrainedTokenizerBase:
    """A byte-level tokenizer, whose tokens may be parts of a character."""
    return train_tokenizer(Scratch(vocabulary=320, context=256), TEXTS)


@pytest.fixture(scope="module")
def llama(bytewise):
    return build("llama", vocabulary=len(bytewise), max_position_embeddings=256)


FAMILIES = ["gpt2", "llama", "opt", "qwen2", "qwen3", "mistral", "gemma2", "t5", "bart"]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("penalty", [1.0, 1.3])
def test_greedy_is_transformers_token_for_token(family, penalty):
    model, asked = build(family), prompts()
    expected = [by_transformers(model, p, repetition_penalty=penalty) for p in asked]
    wish = Sampling(max_new_tokens=20, repetition_penalty=penalty)
    assert len({tuple(e) for e in expected}) > 1
    assert any(len(set(e)) > 3 for e in expected)
    together = [list(answers[0].tokens) for answers in write(model, asked, wish)]
    alone = [list(write(model, [p], wish)[0][0].tokens) for p in asked]
    assert together == expected
    assert alone == expected
    small = [list(answers[0].tokens) for answers in write(model, asked, wish, max_tokens=90)]
    assert small == expected


@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3", "gemma2", "t5"])
def test_ragged_models_write_the_same_and_stay_ragged(family):
    model, asked = build(family), prompts()
    expected = [by_transformers(model, p) for p in asked]
    forward.prepare(model)
    layout = forward.choose_layout(model, wanted="ragged", pad_id=0, kind="pairs" if family == "t5" else "causal")
    model.train()
    assert layout.kind == "ragged"
    found = write(model, asked, Sampling(max_new_tokens=20))
    assert [list(answers[0].tokens) for answers in found] == expected
    pieces = stream(model, tiny.tokenizer("llama"), asked[0], Sampling(max_new_tokens=20), stop_ids=[STOP], max_length=64)
    first = next(pieces)
    assert model.config._attn_implementation == "ragged"
    assert all(m.config._attn_implementation == "ragged" for m in model.modules() if isinstance(m, hf.PreTrainedModel))
    assert model.training
    assert torch.is_grad_enabled()
    assert first + "".join(pieces) == found[0][0].text
    with pytest.raises(ModelError, match="ragged"):
        model(torch.tensor([asked[0]])) if family != "t5" else model(torch.tensor([asked[0]]), decoder_input_ids=torch.tensor([[0]]))


def test_a_model_without_positions_batches_equal_lengths_only():
    torch.manual_seed(0)
    config = hf.BartConfig(vocab_size=tiny.VOCABULARY, d_model=32, decoder_layers=2, decoder_attention_heads=4, decoder_ffn_dim=48, is_decoder=True,
                           max_position_embeddings=64, pad_token_id=0, eos_token_id=STOP, forced_eos_token_id=None, tie_word_embeddings=False)  # fmt: skip
    model = hf.BartForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.mul_(8.0)
    asked = [*prompts(4), prompts(1)[0]]
    assert [list(a[0].tokens) for a in write(model, asked, Sampling(max_new_tokens=12))] == [
        by_transformers(model, p, max_new_tokens=12) for p in asked
    ]


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_seeds_belong_to_requests(family):
    model, asked = build(family), prompts(6)
    wishes = [
        Sampling(max_new_tokens=15, temperature=t, top_k=k, top_p=p, seed=s, candidates=c, repetition_penalty=r)
        for t, k, p, s, c, r in [(1.0, None, None, 1, 3, 1.0), (1.5, 20, None, 1, 1, 1.0), (0.7, None, 0.9, 5, 2, 1.2), (0, None, None, None, 1, 1.0),
                                 (2.0, 30, 0.95, 9, 2, 1.0), (9.0, None, None, 77, 4, 1.0)]
    ]  # fmt: skip
    together = write(model, asked, wishes)
    assert [len(answers) for answers in together] == [3, 1, 2, 1, 2, 4]
    assert together == [write(model, [p], w)[0] for p, w in zip(asked, wishes, strict=True)]
    assert together == write(model, asked[::-1], wishes[::-1], max_tokens=120)[::-1]
    assert len({a.tokens for a in together[5]}) > 1
    second = write(model, [asked[5]], Sampling(max_new_tokens=15, temperature=9.0, seed=78))[0][0]
    assert second == together[5][1]


def test_without_a_seed_answers_differ():
    model, wish = build("llama"), Sampling(max_new_tokens=20, temperature=2.0)
    assert len({write(model, prompts(1), wish)[0][0].tokens for _ in range(4)}) > 1


def drained(pieces):
    """The pieces of a stream, and what it returns."""
    told = []
    while True:
        try:
            told.append(next(pieces))
        except StopIteration as end:
            return told, end.value


@pytest.mark.parametrize("stop", [(), ("e ", "ca"), ("\ufffd",), (" the", "z", "qu")])
def test_stream_is_generate(llama, bytewise, stop):
    asked = bytewise("the café was").input_ids
    for seed in range(6):
        wish = Sampling(max_new_tokens=60, temperature=1.3, seed=seed, stop=stop)
        whole = write(llama, [asked], wish, tokenizer=bytewise, stop_ids=[1], max_length=256)[0][0]
        pieces = stream(llama, bytewise, asked, wish, stop_ids=[1], max_length=256)
        told, returned = drained(pieces)
        assert returned == whole
        assert "".join(told) == whole.text
        assert all(told)
        if not stop:
            assert whole.text == bytewise.decode(whole.tokens, skip_special_tokens=True)
            assert len(told) > 5


class Script(torch.nn.Module):
    """A model that writes a given text, whatever it is asked."""

    def __init__(self, tokens: list[int], vocabulary: int) -> None:
        super().__init__()
        self.config, self.tokens, self.vocabulary = build("llama").config, tokens, vocabulary
        self.weight = torch.nn.Parameter(torch.zeros(1))

    def forward(self, input_ids, attention_mask, position_ids, past_key_values=None, **_):
        cache = past_key_values or hf.DynamicCache()
        cache.update(torch.zeros(len(input_ids), 1, input_ids.shape[1], 1), torch.zeros(len(input_ids), 1, input_ids.shape[1], 1), 0)
        logits = torch.zeros(*input_ids.shape, self.vocabulary)
        self.step = self.step + 1 if past_key_values is not None else 0
        logits[:, -1, self.tokens[min(self.step, len(self.tokens) - 1)]] = 9.0
        return hf.modeling_outputs.CausalLMOutputWithPast(logits=logits, past_key_values=cache)


def scripted(bytewise, text: str, stop: tuple[str, ...]):
    tokens = [t for character in text for t in bytewise(character).input_ids]
    model = Script([*tokens, 1], len(bytewise))
    wish = Sampling(max_new_tokens=200, stop=stop)
    pieces = list(stream(model, bytewise, [5], wish, stop_ids=[1], max_length=256))
    return write(model, [[5]], wish, tokenizer=bytewise, stop_ids=[1], max_length=256)[0][0], pieces, tokens


@pytest.mark.parametrize(
    ("stop", "text", "which"),
    [
        (("\n\nUser:",), "so 日本語 😀 it is", "\n\nUser:"),
        (("語 😀 i", "never"), "so 日本", "語 😀 i"),
        (("User", "\n\nU"), "so 日本語 😀 it is", "\n\nU"),
        (("so",), "", "so"),
        (("nowhere",), "so 日本語 😀 it is\n\nUser: and", None),
    ],
)
def test_a_stop_text_spans_tokens(bytewise, stop, text, which):
    answer, pieces, tokens = scripted(bytewise, "so 日本語 😀 it is\n\nUser: and", stop)
    assert (answer.text, answer.stop, answer.finish) == (text, which, "stop")
    assert "".join(pieces) == text
    assert answer.tokens == tuple(tokens[: len(answer.tokens)])
    assert not any("\ufffd" in piece for piece in pieces)


def test_what_cannot_be_read_as_text_is_told_at_the_end(bytewise):
    tokens = [*bytewise("a").input_ids, bytewise("日").input_ids[0]]
    assert len(bytewise("日").input_ids) > 1
    answer = write(Script(tokens, len(bytewise)), [[5]], Sampling(max_new_tokens=2), tokenizer=bytewise, max_length=256)[0][0]
    assert (answer.text, answer.finish) == ("a\ufffd", "length")


@pytest.mark.parametrize("family", ["llama", "t5"])
def test_logprobs_are_those_of_a_plain_forward(family):
    model, asked = build(family), prompts(4)
    wish = Sampling(max_new_tokens=8, temperature=1.7, top_k=9, seed=3, repetition_penalty=1.4, logprobs=True, top_logprobs=3)
    for prompt, (answer,) in zip(asked, write(model, asked, wish), strict=True):
        written = list(answer.tokens)
        with torch.no_grad():
            if family == "t5":
                logits = model(torch.tensor([prompt]), decoder_input_ids=torch.tensor([[0, *written]])).logits[0, :-1]
            else:
                logits = model(torch.tensor([[*prompt, *written]])).logits[0, len(prompt) - 1 : -1]
        plain = torch.log_softmax(logits, -1)
        torch.testing.assert_close(
            torch.tensor(answer.logprobs), plain.gather(1, torch.tensor(written)[:, None])[:, 0], atol=1e-4, rtol=1e-4
        )
        for top, row in zip(answer.top_logprobs, plain, strict=True):
            assert [token for token, _ in top] == row.topk(3).indices.tolist()
        assert len(answer.logprobs) == len(answer.top_logprobs) == len(written)
    assert write(model, asked, Sampling(max_new_tokens=2))[0][0].logprobs is None


def test_room():
    model = build("llama")
    for length in (64, 65):
        with pytest.raises(LuthierError, match=r"prompt 1: .*\n.*shorten"):
            write(model, [[2, 7], [2] * length], Sampling())
        with pytest.raises(LuthierError, match="shorten"):
            stream(model, tiny.tokenizer("llama"), [2] * length, Sampling(), stop_ids=[STOP], max_length=64)
    with pytest.raises(LuthierError, match="no tokens"):
        write(model, [[]], Sampling())
    answer = write(model, [[2] * 60], Sampling(max_new_tokens=50), stop_ids=())[0][0]
    assert (len(answer.tokens), answer.finish, answer.prompt_tokens) == (4, "length", 60)
    assert write(model, [], Sampling()) == []


def test_mixed_requests_in_one_call():
    model, asked = build("gpt2"), prompts(7)
    wishes = [
        Sampling(max_new_tokens=n, repetition_penalty=r)
        for n, r in [(1, 1.0), (30, 1.2), (3, 1.0), (30, 1.0), (2, 1.5), (9, 1.0), (30, 1.0)]
    ]
    found = write(model, asked, wishes)
    for prompt, wish, (answer,) in zip(asked, wishes, found, strict=True):
        assert list(answer.tokens) == by_transformers(
            model, prompt, max_new_tokens=wish.max_new_tokens, repetition_penalty=wish.repetition_penalty
        )
    with pytest.raises(LuthierError, match="2 for 7"):
        write(model, asked, wishes[:2])


def test_an_encoder_decoder_must_say_how_answers_start():
    model = build("t5")
    del model.config.decoder_start_token_id
    with pytest.raises(ModelError, match="decoder_start_token_id"):
        write(model, prompts(1), Sampling())


def test_a_broken_model_is_told():
    model = build("llama")
    with torch.no_grad():
        model.lm_head.weight[0] = torch.nan
    with pytest.raises(ModelError, match="not numbers"):
        write(model, prompts(1), Sampling())


@pytest.mark.parametrize("family", ["llama", "gpt2", "t5"])
def test_beams_are_transformers(family):
    model, asked = build(family), prompts(5)
    forward.prepare(model)
    expected = [by_transformers(model, p, num_beams=4) for p in asked]
    penalised = [by_transformers(model, p, num_beams=3, length_penalty=2.0) for p in asked]
    assert expected != [by_transformers(model, p) for p in asked]
    forward.choose_layout(model, wanted="ragged", pad_id=0, kind="pairs" if family == "t5" else "causal")
    found = beams(model, asked, beams=4, stop_ids=[STOP], max_new_tokens=20, max_length=64, pad_id=0)
    assert found == expected
    assert model.config._attn_implementation == "ragged"
    assert (
        beams(model, asked, beams=3, stop_ids=[STOP], max_new_tokens=20, max_length=64, pad_id=0, length_penalty=2.0, max_tokens=90)
        == penalised
    )
    short = beams(model, asked, beams=2, stop_ids=[], max_new_tokens=5, max_length=64, pad_id=0)
    assert all(len(tokens) == 5 for tokens in short)
