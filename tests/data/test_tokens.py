"""Tokens: as transformers makes them, cut ones counted, the second time from the cache."""

from __future__ import annotations

import pytest

from luthier.data import tokens
from luthier.errors import DataError
from tests import tiny

TEXTS = ["the film was great", "we found it flat " * 30, "cold", "unknown words here"]


def test_ids_are_those_of_transformers():
    tokenizer = tiny.tokenizer()
    found = tokens.tokenize(TEXTS, None, tokenizer.backend_tokenizer, max_length=20)
    plain = tokenizer(TEXTS, truncation=True, max_length=20)
    assert [e["input_ids"].tolist() for e in found.examples()] == plain["input_ids"]
    assert found.truncated == 1
    assert found.lengths() == [len(x) for x in plain["input_ids"]]


def test_pairs_carry_their_types():
    tokenizer = tiny.tokenizer()
    found = tokens.tokenize(TEXTS[:1], ["so cold"], tokenizer.backend_tokenizer, max_length=20).examples()[0]
    plain = tokenizer(TEXTS[0], "so cold")
    assert found["input_ids"].tolist() == plain["input_ids"]
    assert found["token_type_ids"].tolist() == plain["token_type_ids"]


def test_the_cache_is_read_and_keyed_by_content(tmp_path, monkeypatch):
    tokenizer = tiny.tokenizer().backend_tokenizer
    first = tokens.tokenize(TEXTS, None, tokenizer, max_length=20, cache=tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 1
    monkeypatch.setattr(tokens, "_store", lambda *a: pytest.fail("written again"))
    again = tokens.tokenize(TEXTS, None, tokenizer, max_length=20, cache=tmp_path)
    assert again.table.equals(first.table)
    assert again.truncated == 1
    monkeypatch.undo()
    tokens.tokenize(TEXTS, None, tokenizer, max_length=9, cache=tmp_path)
    tokens.tokenize([*TEXTS[:3], "another"], None, tokenizer, max_length=20, cache=tmp_path)
    assert len(list(tmp_path.glob("*.arrow"))) == 3


def test_a_damaged_cache_file_is_made_again(tmp_path):
    tokenizer = tiny.tokenizer().backend_tokenizer
    first = tokens.tokenize(TEXTS, None, tokenizer, max_length=20, cache=tmp_path)
    path = next(tmp_path.glob("*.arrow"))
    path.write_bytes(path.read_bytes()[:100])
    assert tokens.tokenize(TEXTS, None, tokenizer, max_length=20, cache=tmp_path).table.equals(first.table)


def test_a_text_without_tokens_is_refused():
    tokenizer = tiny.tokenizer("gpt2").backend_tokenizer
    from tokenizers import processors

    tokenizer.post_processor = processors.TemplateProcessing(single="$A", pair="$A $B", special_tokens=[])
    with pytest.raises(DataError, match="gives no tokens"):
        tokens.tokenize([" "], None, tokenizer, max_length=20)
