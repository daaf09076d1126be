"""Words and tokens: spans of characters come back as they went in, whatever the script, the tokenizer and the window."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luthier.data.prepare import Words
from luthier.data.rows import Row
from luthier.data.tokens import UNGRADED
from luthier.models.source import NAMES, resolve
from luthier.recipe.sections import Data, Model
from luthier.recipe.tasks.tagging import TaggingOptions
from luthier.tasks.tagging import Tagging
from luthier.tasks.tags import label_space
from luthier.tasks.words import split, windows
from tests import tiny

TEXTS = [
    "Angela Merkel", "O'Brien's", "3.5", "e\u0301te\u0301", "n\u0303a", "北京市", "東京タワー", "서울에서", "ไทยแลนด์", "שָׁלוֹם", "مُحَمَّد", "हिन्दी", "می‌خواهم",
    "👍🏽", "👩‍👩‍👧", "🇩🇪🇫🇷", "🏴󠁧󠁢󠁥󠁮󠁧󠁿", "...", "(", "©", "x_1", "\u200f", "a\u00adb", "ß", "İ", "ﬁ",
]  # fmt: skip
GAPS = ["", " ", "  ", "\n", "\t", "\u00a0", "\u3000", "\u200b", ", "]


def byte_level() -> PreTrainedTokenizerFast:
    """Bytes alone; a space belongs to the word after it."""
    vocabulary = {"<s>": 0, "</s>": 1, **{c: i + 2 for i, c in enumerate(sorted(pre_tokenizers.ByteLevel.alphabet()))}}
    backend = Tokenizer(models.BPE(vocabulary, []))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


@pytest.fixture(scope="module")
def tokenizers():
    assert "minilm" in NAMES
    return {
        "words": tiny.tokenizer(),  # gives runs of signs one token
        "wordpiece": AutoTokenizer.from_pretrained(resolve(Model(name="minilm")).location),
        "bytes": byte_level(),
    }


@st.composite
def texts(draw: st.DrawFn) -> str:
    parts = draw(
        st.lists(st.one_of(st.sampled_from(TEXTS), st.text(st.characters(exclude_categories=["Cs"]), max_size=4)), min_size=1, max_size=6)
    )
    return "".join(p + draw(st.sampled_from(GAPS)) for p in parts)


def task_of(labels: list[str], **options) -> Tagging:
    columns = {"text": "text", "words": None, "tags": None, "spans": "spans"}
    chosen = TaggingOptions(**options)
    return Tagging(chosen, Data(train=["none"]), kind="entities", labels=label_space(labels, chosen.scheme), columns=columns)


def answered(task: Tagging, encoded) -> np.ndarray:
    """What a model says that is sure of the right tags."""
    lines = []
    for example in encoded.tokens.examples():
        words, tags = np.asarray(example["words"]), np.asarray(example["tags"])
        logits = np.zeros((task._slots, len(task.labels)))
        logits[np.arange((words >= 0).sum()), tags[words >= 0]] = 20.0
        lines.append(np.concatenate([[(words >= 0).sum()], logits.ravel()]))
    return np.array(lines)


@pytest.mark.parametrize("kind", ["words", "wordpiece", "bytes"])
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=texts(), data=st.data())
def test_spans_come_back_as_they_went_in(kind, tokenizers, text, data):
    offsets = split(text)
    assume(offsets and text.strip() and "\0" not in text)
    cuts = sorted(data.draw(st.sets(st.integers(0, len(offsets)), max_size=6)))
    spans = [
        {"start": offsets[a][0], "end": offsets[b - 1][1], "label": data.draw(st.sampled_from(["PER", "LOC"]))}
        for a, b in itertools.pairwise(cuts)
        if data.draw(st.booleans())
    ]
    task = task_of(["LOC", "PER"], scheme=data.draw(st.sampled_from(["bio", "iob1", "bilou", "iobes"])), stride=4)
    record = task.record(Row({"text": text, "spans": spans}, "f", 1))
    assert not isinstance(record, str), record
    assert not task._seen["spans did not stand at the borders of words, and were moved there"]
    encoded = task.encode([record], tokenizers[kind], config=None, max_length=data.draw(st.sampled_from([9, 64])))
    assert not encoded.rejected
    asked = task.texts({"text": text})
    assert not isinstance(asked, str)
    said = task.decode(task.combine([asked])(answered(task, encoded), encoded.tokens.owner), [asked])[0]["spans"]
    assert [{k: s[k] for k in ("start", "end", "label")} for s in said] == spans
    assert all(s["text"] == text[s["start"] : s["end"]] for s in said)


@pytest.mark.parametrize("kind", ["words", "wordpiece", "bytes"])
@pytest.mark.parametrize("max_length", [8, 13, 200])
def test_each_word_is_answered_once_where_it_has_most_context(kind, max_length, tokenizers):
    forms = tuple(f"word{i}" if i % 3 else "," for i in range(60))
    text = " ".join(forms)
    offsets = tuple((m, m + len(f)) for f, m in zip(forms, np.cumsum([0, *(len(f) + 1 for f in forms[:-1])]).tolist(), strict=True))
    tokenizer = tokenizers[kind]
    for given_ in (True, False):
        found = windows([text], [Words(forms, offsets, given_)], tokenizer, max_length=max_length, stride=4)[0]
        assert not isinstance(found, str)
        assert sorted(w for window in found for w in window.words if w != UNGRADED) == list(range(60))
        assert all(len(w.ids) <= max_length for w in found)
        edge = [(i, len(w.words) - 1 - i) for w in found[1:-1] for i, mark in enumerate(w.words) if mark != UNGRADED]
        if max_length == 13 and kind == "words":  # 11 tokens beside [CLS] and [SEP], 4 of them shared
            assert min(left for left, _ in edge) >= 2 + 1
            assert min(right for _, right in edge) >= 1 + 1


def test_windows_are_the_whole_text_in_order(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    text = "The quick brown fox jumps over the lazy dog near unbelievably overcrowded riverbanks. " * 20
    words = Words(tuple(text[a:b] for a, b in split(text)), tuple(split(text)), given=False)
    whole = tokenizer(text, add_special_tokens=False).input_ids
    found = windows([text], [words], tokenizer, max_length=32, stride=10)[0]
    step, ids = 30 - 10, []
    for number, window in enumerate(found):
        body = window.ids[1:-1]
        assert body == whole[number * step : number * step + 30]
        ids += body[len(ids) - number * step :]
    assert ids == whole


def test_words_that_were_given_are_encoded_as_transformers_encodes_them(tokenizers):
    forms = ("Angela", "Merkel", "did", "n't", "visit", "Paris-Orly", ".")
    offsets = tuple((i, i + 1) for i in range(len(forms)))
    tokenizer = tokenizers["wordpiece"]
    window = windows(["x" * 10], [Words(forms, offsets, True)], tokenizer, max_length=64, stride=0)[0][0]
    theirs = tokenizer(list(forms), is_split_into_words=True)
    assert window.ids == theirs.input_ids
    firsts = [i for i, w in enumerate(theirs.word_ids()) if w is not None and w != theirs.word_ids()[i - 1]]
    assert [i for i, w in enumerate(window.words) if w != UNGRADED] == firsts


def test_given_words_keep_their_spaces_where_the_tokenizer_tells_the_difference(tokenizers):
    tokenizer = tokenizers["bytes"]
    text, forms, offsets = "So, we did.", ("So", ",", "we", "did", "."), ((0, 2), (2, 3), (4, 6), (7, 10), (10, 11))
    window = windows([text], [Words(forms, offsets, True)], tokenizer, max_length=64, stride=0)[0][0]
    assert window.ids == tokenizer(text).input_ids


def test_a_word_without_tokens_is_unknown_rather_than_lost(tokenizers):
    tokenizer = tokenizers["wordpiece"]
    window = windows(["a \u0301 b"], [Words(("a", "\u0301", "b"), ((0, 1), (2, 3), (4, 5)), True)], tokenizer, max_length=64, stride=0)[0][
        0
    ]
    assert [w for w in window.words if w != UNGRADED] == [0, 1, 2]
    assert tokenizer.unk_token_id in window.ids


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("Angela Merkel's car.", ["Angela", "Merkel", "'", "s", "car", "."]),
        ("e\u0301te\u0301 3.5", ["e\u0301te\u0301", "3", ".", "5"]),
        ("北京and東京", ["北", "京", "and", "東", "京"]),
        ("👩‍👩‍👧🇩🇪🇫🇷!👍🏽", ["👩‍👩‍👧", "🇩🇪", "🇫🇷", "!", "👍🏽"]),
        ("a\u200bb \u200f", ["a", "b"]),
        ("می‌خواهم", ["می‌خواهم"]),
    ],
)
def test_words_of_a_text(text, words):
    assert [text[a:b] for a, b in split(text)] == words
