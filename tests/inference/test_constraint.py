"""Constrained answers: whatever the model wants to write, the text keeps to the schema, choices or expression."""

from __future__ import annotations

import json
import re
import sys

import pytest
import torch
import transformers as hf

from luthier.errors import DependencyError, LuthierError
from luthier.inference.constraint import compile_constraint
from luthier.inference.generate import Sampling, generate, stream
from luthier.models.scratch import train_tokenizer
from luthier.recipe.sections import Scratch
from tests.inference.test_generate import build

pytest.importorskip("llguidance")

TEXTS = ['{"name": "Bob", "age": 12, "mood": "very happy", "tags": ["a", "b"]} the café is warm \n  and 日本語 is true or false. ' * 4]
END = 1
SCHEMA = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 8},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "mood": {"enum": ["happy", "very happy", "sad — très"]},
        "tags": {"type": "array", "items": {"type": "string", "pattern": "^[a-c]{1,3}$"}, "maxItems": 3},
        "fine": {"type": "boolean"},
    },
    "required": ["name", "age", "mood", "tags", "fine"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def tokenizer() -> hf.PreTrainedTokenizerBase:
    return train_tokenizer(Scratch(vocabulary=330, context=600), TEXTS)


@pytest.fixture(scope="module")
def model(tokenizer) -> hf.PreTrainedModel:
    return build("llama", vocabulary=len(tokenizer) + 7, max_position_embeddings=600)


def write(model, tokenizer, wish, constraint, *, count=4, stop_ids=(END,)):
    asked = [tokenizer("the café " * (i + 1)).input_ids for i in range(count)]
    found = generate(model, tokenizer, asked, wish, stop_ids=stop_ids, max_length=600, constraint=constraint)
    return [answer for answers in found for answer in answers]


def fits(value: object) -> bool:
    """Whether a value keeps to SCHEMA, written out by hand."""
    assert isinstance(value, dict)
    tags_fit = len(value["tags"]) <= 3 and all(re.fullmatch("[a-c]{1,3}", tag) for tag in value["tags"])
    return (
        list(value) == ["name", "age", "mood", "tags", "fine"]
        and len(value["name"]) <= 8
        and 0 <= value["age"] <= 150
        and value["mood"] in SCHEMA["properties"]["mood"]["enum"]
        and tags_fit
        and isinstance(value["fine"], bool)
    )


@pytest.mark.parametrize("temperature", [0.0, 1.5])
def test_answers_keep_to_the_schema(model, tokenizer, temperature):
    rule = compile_constraint(tokenizer, schema=SCHEMA)
    wish = Sampling(max_new_tokens=520, temperature=temperature, seed=0, candidates=3, repetition_penalty=1.2)
    answers = write(model, tokenizer, wish, rule)
    assert all(answer.finish == "stop" and fits(json.loads(answer.text)) for answer in answers)
    assert len({answer.text for answer in answers}) > 1
    assert all(token < len(tokenizer) and token != END for answer in answers for token in answer.tokens)


@pytest.mark.parametrize("choices", [["yes", "no"], ["cat", "cats", "cats and dogs"], ['say "hi"\n', "naïve 日本", "\\d+", "🙂"]])
def test_answers_are_choices(model, tokenizer, choices):
    rule = compile_constraint(tokenizer, choices=choices)
    wish = Sampling(max_new_tokens=40, temperature=5.0, seed=0, candidates=12)
    answers = write(model, tokenizer, wish, rule)
    assert {answer.text for answer in answers} == set(choices)
    assert {answer.finish for answer in answers} == {"stop"}


def test_answers_match_the_expression(model, tokenizer):
    rule = compile_constraint(tokenizer, regex=r"[A-Z][a-z]{2,5} \d{2}(:\d{2})?")
    answers = write(model, tokenizer, Sampling(max_new_tokens=40, temperature=3.0, seed=1, candidates=6), rule)
    assert all(re.fullmatch(r"[A-Z][a-z]{2,5} \d{2}(:\d{2})?", answer.text) for answer in answers)


def test_the_stop_token_comes_only_where_the_answer_is_whole(tokenizer, model):
    matcher = compile_constraint(tokenizer, choices=["cat", "cats"]).matcher([END, 40])
    width = len(tokenizer) + 7
    for piece, whole in (("c", False), ("a", False), ("t", True)):
        assert not matcher.allowed(width)[END]
        assert not matcher.allowed(width)[40]
        matcher.take(tokenizer.convert_tokens_to_ids(piece))
        assert bool(matcher.allowed(width)[END]) == bool(matcher.allowed(width)[40]) == whole
        assert not matcher.complete
    assert matcher.allowed(width).sum() == 3
    assert not matcher.allowed(width)[len(tokenizer) :].any()
    assert matcher.allowed(3).shape == (3,)
    matcher.take(tokenizer.convert_tokens_to_ids("s"))
    assert matcher.complete


def test_a_whole_answer_ends_without_a_stop_token(model, tokenizer):
    rule = compile_constraint(tokenizer, choices=["yes", "no"])
    assert {a.text for a in write(model, tokenizer, Sampling(temperature=2.0, seed=0, candidates=4), rule, stop_ids=())} == {"yes", "no"}


@pytest.mark.parametrize("layout", [{}, {"indent": 2}, {"indent": 4}, {"separators": (",", ":")}])
def test_json_may_be_laid_out_as_people_do_but_not_filled_with_spaces(tokenizer, layout):
    value = {"name": "Bob", "age": 12, "mood": "happy", "tags": ["a", "b"], "fine": True}
    rule = compile_constraint(tokenizer, schema=SCHEMA)
    matcher = rule.matcher([END])
    for token in tokenizer(json.dumps(value, **layout)).input_ids:
        assert matcher.allowed(len(tokenizer))[token]
        matcher.take(token)
    assert matcher.complete
    matcher, space = rule.matcher([END]), tokenizer.convert_tokens_to_ids("Ġ")
    matcher.take(tokenizer("{").input_ids[0])
    spaces = 0
    while matcher.allowed(len(tokenizer))[space]:
        matcher.take(space)
        spaces += 1
    assert spaces <= 32


def test_streams_and_mixed_constraints(model, tokenizer):
    rules = [compile_constraint(tokenizer, choices=["yes", "no"]), None, compile_constraint(tokenizer, regex="[0-9]{4}"), None]
    wish = Sampling(max_new_tokens=30, temperature=1.5, seed=4, logprobs=True)
    answers = write(model, tokenizer, wish, rules)
    assert answers[0].text in ("yes", "no")
    assert re.fullmatch("[0-9]{4}", answers[2].text)
    free = write(model, tokenizer, wish, None)
    assert (answers[1].text, answers[3].text) == (free[1].text, free[3].text)
    assert all(torch.isfinite(torch.tensor(a.logprobs)).all() for a in answers)
    asked = tokenizer("the café ").input_ids
    assert "".join(stream(model, tokenizer, asked, wish, stop_ids=[END], max_length=600, constraint=rules[0])) == answers[0].text


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"schema": {"type": "objct"}}, r"constraint\.schema: .*objct"),
        ({"schema": {"type": "array", "uniqueItems": True}}, r"constraint\.schema: .*uniqueItems"),
        ({"schema": {"type": "integer", "minimum": 3, "maximum": 1}}, "minimum"),
        ({"schema": {"enum": [{1, 2}]}}, r"constraint\.schema: is not a JSON schema"),
        ({"regex": "(ab"}, r"constraint\.regex: .*unclosed group"),
        ({"regex": "a(?=b)"}, "look-around"),
        ({"choices": []}, r"constraint\.choices"),
        ({"choices": "yes"}, "list of texts"),
        ({"choices": ["yes", ""]}, "none of them empty"),
        ({}, "give one of schema, choices and regex"),
        ({"regex": "a", "choices": ["a"]}, "choices and regex"),
    ],
)
def test_what_cannot_be_compiled_is_told(tokenizer, given, message):
    with pytest.raises(LuthierError, match=message) as caught:
        compile_constraint(tokenizer, **given)
    assert caught.value.fault.remedy


def test_without_the_package_its_install_line_is_told(tokenizer, monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    with pytest.raises(DependencyError, match=r"luthier\[structured\]"):
        compile_constraint(tokenizer, regex="a")
