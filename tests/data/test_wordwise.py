"""Word by word, texts give the tokens that they give as a whole: for every tokenizer and text, or it is not done."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers, processors

from luthier.data import encode, tokens, wordwise
from tests import tiny

LETTERS = (
    "abAB\u00e9e\u0301\u03a3\u00df\u0130 \t\n\u000b\u0085\u00a0\u2028\u3000\u200b\u00ad\ufffd\u0000.,'-\u4e2d\u6587[]<>#\U0001f600\u094d"
)
PIECES = ["[MASK]", "<user>", "[SEP]", "@me", " ", "  ", "ab", "a" * 120]
TEXT = st.lists(st.one_of(st.text(LETTERS, max_size=6), st.sampled_from(PIECES)), max_size=12).map("".join)
NORMALIZERS = {
    "uncased": normalizers.BertNormalizer(),
    "cased": normalizers.BertNormalizer(lowercase=False),
    "accents": normalizers.BertNormalizer(lowercase=True, strip_accents=False, handle_chinese_chars=False, clean_text=False),
    "lowercase": normalizers.Lowercase(),
    "none": None,
}
SPLITTERS = {
    "bert": pre_tokenizers.BertPreTokenizer(),
    "words": pre_tokenizers.Whitespace(),
    "spaces": pre_tokenizers.WhitespaceSplit(),
}


def wordpiece(normalizer: str = "uncased", splitter: str = "bert") -> Tokenizer:
    characters = sorted(set(LETTERS + "\u03c3\u03c2ssi\u0307@mue") - set(" \t\n"))
    vocabulary = ["[UNK]", "[CLS]", "[SEP]", "[MASK]", "ab", "##ab", *characters, *(f"##{c}" for c in characters)]
    made = Tokenizer(models.WordPiece({w: i for i, w in enumerate(dict.fromkeys(vocabulary))}, unk_token="[UNK]"))
    if NORMALIZERS[normalizer] is not None:
        made.normalizer = NORMALIZERS[normalizer]
    made.pre_tokenizer = SPLITTERS[splitter]
    made.add_special_tokens([AddedToken("[MASK]", lstrip=True), "[CLS]", "[SEP]"])
    made.add_tokens([AddedToken("<user>", single_word=True), AddedToken("@me", normalized=True, rstrip=True)])
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])
    return made


def as_a_whole(made: Tokenizer, texts: list[str], length: int | None, *, special: bool) -> tuple[list[list[int]], int]:
    made.no_truncation() if length is None else made.enable_truncation(length)
    found = made.encode_batch(texts, add_special_tokens=special)
    return [e.ids for e in found], sum(bool(e.overflowing) for e in found)


@pytest.mark.parametrize("splitter", SPLITTERS)
@pytest.mark.parametrize("normalizer", NORMALIZERS)
@settings(max_examples=40, deadline=None)
@given(texts=st.lists(TEXT, min_size=1, max_size=8), length=st.none() | st.integers(3, 9), special=st.booleans())
def test_the_tokens_are_those_of_the_tokenizer(normalizer, splitter, texts, length, special):
    made = wordpiece(normalizer, splitter)
    around = wordwise.frame(made, texts, max_length=length, special=special)
    if around is None:  # no text has a token
        assert not special or all(len(ids) == 2 for ids in as_a_whole(made, texts, None, special=True)[0])
        return
    parts = list(wordwise.by_word(texts, made, around, max_length=length))
    wanted, cut = as_a_whole(made, texts, length, special=special)
    assert [ids for part in parts for ids in part.lists()] == wanted
    assert sum(part.cut for part in parts) == cut


def test_chunks_are_joined_in_order_and_the_limits_come_back(monkeypatch):
    made = tiny.tokenizer().backend_tokenizer
    texts = [f"{text} {'great ' * (i % 7)}" for i, (text, _) in enumerate(tiny.moods_rows(60))]
    plain = tokens.tokenize(texts, None, made, max_length=9).table
    monkeypatch.setattr(encode, "FEW", 0)
    monkeypatch.setattr(encode, "_whole", lambda *a: pytest.fail("encoded as a whole"))
    for name, value in (("CHUNK", 7), ("CHARACTERS", 90)):
        monkeypatch.setattr(wordwise, name, value)
        found = tokens.tokenize(texts, None, made, max_length=9)
        assert found.table.num_rows == len(texts)
        assert found.table["input_ids"].num_chunks > 5
        assert found.table.combine_chunks().equals(plain.combine_chunks())
        assert made.truncation["max_length"] == 9


def test_a_text_without_tokens_is_named_by_its_place(monkeypatch):
    made = wordpiece()
    monkeypatch.setattr(encode, "FEW", 0)
    monkeypatch.setattr(wordwise, "CHUNK", 2)
    with pytest.raises(tokens.DataError, match="text 3 gives no tokens"):
        tokens.tokenize(["ab", "a", "b", " ", "ab"], None, made, max_length=9, special=False)


def joined(made: Tokenizer) -> None:
    made.add_tokens(["a b"])


def kept(made: Tokenizer) -> None:
    made.pre_tokenizer = pre_tokenizers.Metaspace()


def turned(made: Tokenizer) -> None:
    made.normalizer = normalizers.Replace(" ", "_")


def unbroken(made: Tokenizer) -> None:
    made.add_tokens([AddedToken("a\u00a0b", normalized=True)])


def typed(made: Tokenizer) -> None:
    made.post_processor = processors.TemplateProcessing(single="[CLS]:1 $A:1 [SEP]:1", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])


def twice(made: Tokenizer) -> None:
    made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP] $A", special_tokens=[("[CLS]", 1), ("[SEP]", 2)])


@pytest.mark.parametrize("change", [joined, kept, turned, unbroken, typed, twice])
def test_a_tokenizer_that_looks_over_spaces_encodes_texts_whole(change, monkeypatch):
    made = wordpiece()
    change(made)
    texts = ["ab a b", "b a", "ab"] * 3
    assert wordwise.frame(made, texts, max_length=6, special=True) is None
    monkeypatch.setattr(encode, "FEW", 0)
    found = tokens.tokenize(texts, None, made, max_length=6)
    assert [e["input_ids"].tolist() for e in found.examples()] == as_a_whole(made, texts, 6, special=True)[0]


def test_tokenizers_that_join_words_encode_texts_whole():
    bytewise, joining = Tokenizer(models.BPE()), Tokenizer(models.Unigram([("a", 0.0)], 0))
    bytewise.pre_tokenizer, joining.pre_tokenizer = pre_tokenizers.ByteLevel(), pre_tokenizers.Whitespace()
    assert [wordwise.frame(made, ["a film"], max_length=None, special=True) for made in (bytewise, joining)] == [None, None]


def test_a_tokenizer_without_an_unknown_token_is_asked_for_nothing_else(monkeypatch):
    made = Tokenizer(models.WordLevel({"x": 0, "y": 1}))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    monkeypatch.setattr(encode, "FEW", 0)
    monkeypatch.setattr(encode, "_whole", lambda *a: pytest.fail("encoded as a whole"))
    found = tokens.tokenize(["x y", "y"] * 50, None, made, max_length=9)
    assert [e["input_ids"].tolist() for e in found.examples()][:2] == [[0, 1], [1]]


def test_a_length_without_place_for_a_word_is_the_tokenizers_affair(monkeypatch):
    made = wordpiece()
    assert wordwise.frame(made, ["ab"], max_length=2, special=True) is None
    assert wordwise.frame(made, ["ab"], max_length=3, special=True) is not None


def test_texts_that_would_differ_are_encoded_whole(monkeypatch):
    """Should a tokenizer differ all the same, the texts that are tried show it."""
    made = wordpiece()
    monkeypatch.setattr(wordwise, "_separable", lambda tokenizer: True)
    joined(made)
    assert wordwise.frame(made, ["ab", "a b"], max_length=None, special=True) is None
