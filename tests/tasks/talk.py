"""Conversations, chat templates of real models, and small tokenizers that know their special tokens."""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

from luthier.data.prepare import Record
from luthier.data.rows import Row
from luthier.data.tokens import UNGRADED
from luthier.recipe.sections import Data
from luthier.recipe.tasks.chat import ChatOptions
from luthier.tasks.chat import Chat

CHATML = """{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}{% endfor %}\
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""
MARK = re.compile(r"<\|[a-z_A-Z]+\|?>|<[a-z_]+\|>|<｜[^<>｜\n{}']{1,40}｜>|<(?:start|end)_of_turn>|<\|\"\|>|\[gMASK\]|<sop>")
CORPUS = [
    "Hello there, this is a little text.\n\nIt has lines.\n\n\n\nAnd words! User: Assistant:\n\n The assistant\nmodel system\nuser says",
    'It calls {"name": "look", "arguments": {"where": "there", "count": 12}} and def f(x):\n    return {x: [1, 2]}\n',
] * 8


def messages(*turns: str) -> list[dict]:
    """Turns of user and assistant, the user first."""
    return [{"role": ("user", "assistant")[i % 2], "content": text} for i, text in enumerate(turns)]


def call(name: str, arguments: object, content: str | None = None) -> dict:
    """An assistant's turn that calls a tool."""
    return {
        "role": "assistant",
        "content": content,
        "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
    }


TOOLS = [{"type": "function", "function": {"name": "look", "description": "Looks.", "parameters": {"type": "object", "properties": {"where": {"type": "string", "description": "A place."}}, "required": ["where"]}}}]  # fmt: skip


LLAMA = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
"""How Llama 3, Qwen and others cut texts into words: line breaks hold together, also with what is before them."""


@cache
def _byte_level(cut: str | None) -> str:
    backend = Tokenizer(models.BPE())
    pieces = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=cut is None)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*([pre_tokenizers.Split(Regex(cut), "isolated")] if cut else []), pieces])
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    backend.train_from_iterator(CORPUS, trainer)
    return backend.to_str()


@cache
def _pieces() -> str:
    """Like the tokenizers made by SentencePiece: spaces are letters, and unknown characters go byte by byte."""
    learned = Tokenizer(models.BPE(unk_token="<unk>"))
    learned.normalizer = normalizers.Replace(" ", "▁")
    learned.train_from_iterator(CORPUS, trainers.BpeTrainer(vocab_size=300, special_tokens=["<unk>", *(f"<0x{i:02X}>" for i in range(256))], show_progress=False, max_token_length=8))  # fmt: skip
    vocabulary = learned.get_vocab()
    merges = [tuple(m) for m in json.loads(learned.to_str())["model"]["merges"]]
    backend = Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    backend.normalizer = normalizers.Replace(" ", "▁")
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    return backend.to_str()


def tokenizer(template: str | None, *, bos: str | None = None, eos: str | None = "<|stop|>", pad: str | None = "<|pad|>", kind: str = "bytes", more: tuple[str, ...] = (), swallow: bool = False) -> PreTrainedTokenizerFast:  # fmt: skip
    """A small tokenizer that knows the template's special tokens, and puts `bos` before plain text.

    `kind`: bytes (as Llama 3's), trimmed (as RoBERTa's: white space is left out of the offsets), or pieces (as Gemma's). With `swallow` special tokens take the
    white space after them along, as Phi-3's do.
    """
    backend = Tokenizer.from_str(_pieces() if kind == "pieces" else _byte_level(LLAMA if kind == "bytes" else None))
    marks = dict.fromkeys([*MARK.findall(template or ""), *more, *(t for t in (bos, eos, pad) if t)])
    backend.add_special_tokens([AddedToken(m, special=True, normalized=False, rstrip=swallow) for m in marks])
    steps = [processors.ByteLevel(trim_offsets=True)] if kind == "trimmed" else []
    if bos:
        steps.append(
            processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A $B", special_tokens=[(bos, backend.token_to_id(bos))])
        )
    if steps:
        backend.post_processor = processors.Sequence(steps)
    named = {"bos_token": bos, "eos_token": eos, "pad_token": pad}
    made = PreTrainedTokenizerFast(tokenizer_object=backend, model_max_length=4096, **{k: v for k, v in named.items() if v})
    made.chat_template = template
    return made


def task(**options: object) -> Chat:
    return Chat(ChatOptions(**options), Data(train=["none"]), format="messages")


def record(turns: list[dict], made: Chat | None = None, **columns: object) -> Record:
    """The turns as a record, by way of a row."""
    found = (made or task()).record(Row({"messages": turns, **columns}, "rows.jsonl", 1))
    assert isinstance(found, Record), found
    return found


def runs(example: dict, known: PreTrainedTokenizerFast) -> list[str]:
    """The text of each run of graded tokens."""
    found: list[list[int]] = []
    before = UNGRADED
    for label in example["labels"].tolist():
        if label != UNGRADED:
            if before == UNGRADED:
                found.append([])
            found[-1].append(label)
        before = label
    return [known.decode(run, skip_special_tokens=False) for run in found]


def graded(turns: list[dict], known: PreTrainedTokenizerFast, *, tools: object = None, **options: object) -> list[str]:
    """What is graded of a conversation, by way of the task's own encoding."""
    made = task(**options)
    encoded = made.encode([record(turns, made, tools=tools)], known, config=None, max_length=100_000)
    assert not encoded.rejected, encoded.rejected
    return runs(encoded.tokens.examples()[0], known)


def trl_template(name: str) -> str:
    from importlib.util import find_spec

    spec = find_spec("trl")  # found, not imported: that takes ten seconds
    assert spec is not None
    assert spec.origin is not None
    return (Path(spec.origin).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
