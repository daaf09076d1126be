"""Rows of every chat format become conversations; every bad one is quarantined with its reason, and none is an error of ours."""

from __future__ import annotations

import copy
import datetime
import gzip
import json
import os
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import luthier
from luthier.data.prepare import assemble, quarantine
from luthier.data.rows import Row, Rows, read
from luthier.data.sources.lines import MOST
from luthier.errors import DataError, LuthierError, ModelError
from luthier.recipe.sections import Data
from luthier.recipe.tasks.chat import ChatOptions
from luthier.recipe.tasks.text2text import Text2TextOptions
from luthier.tasks.chat import Chat
from luthier.tasks.conversation import FORMATS, conversation, recognise
from luthier.tasks.template import TemplateError
from luthier.tasks.text2text import Text2Text
from tests import tiny
from tests.tasks import talk
from tests.tasks.talk import CHATML, call, messages

HI = messages("Hi", "Hello")
HI_SYSTEM = [{"role": "system", "content": "Be brief."}, *HI]
TOOL = {"type": "function", "function": {"name": "look", "parameters": {}}}
CALLED = [
    {"role": "user", "content": "Where?"},
    {
        "role": "assistant",
        "content": None,
        "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "look", "arguments": '{"a": 1}'}}],
    },
    {"role": "tool", "content": "There.", "tool_call_id": "c1"},
    {"role": "assistant", "content": "There it is."},
]
GOOD = {
    "messages": ("messages", {"messages": HI}, HI, None),
    "messages as JSON text": ("messages", {"messages": json.dumps(HI_SYSTEM)}, HI_SYSTEM, None),
    "developer and parts": ("messages", {"messages": [{"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]}, *HI]}, HI_SYSTEM, None),
    "nothing where Parquet has no value": ("messages", {"messages": [{**m, "from": None, "tool_calls": None, "name": None} for m in HI], "tools": None}, HI, None),
    "OpenAI with tools": ("messages", {"messages": CALLED, "tools": [TOOL]}, CALLED, [TOOL]),
    "one tool as JSON text": ("messages", {"messages": HI, "tools": json.dumps(TOOL)}, HI, [TOOL]),
    "sharegpt": ("sharegpt", {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}], "system": "Be brief."}, HI_SYSTEM, None),
    "sharegpt with a call": ("sharegpt", {"conversations": [{"from": "human", "value": "Where?"}, {"from": "function_call", "value": '{"name": "look", "arguments": {"a": 1}}'}, {"from": "observation", "value": "There."}, {"from": "gpt", "value": "There it is."}], "tools": json.dumps([TOOL])},
                             [CALLED[0], call("look", {"a": 1}), {"role": "tool", "content": "There."}, CALLED[3]], [TOOL]),
    "prompt and completion": ("prompt_completion", {"prompt": "Hi", "completion": "Hello"}, HI, None),
    "prompt and completion as messages": ("prompt_completion", {"prompt": HI_SYSTEM[:2], "completion": HI[1:]}, HI_SYSTEM, None),
    "alpaca": ("alpaca", {"instruction": "Hi", "input": "", "output": "Hello"}, HI, None),
    "alpaca with input": ("alpaca", {"instruction": "Say", "input": "Hi", "output": "Hello", "system": "Be brief."}, [HI_SYSTEM[0], {"role": "user", "content": "Say\n\nHi"}, HI[1]], None),
}  # fmt: skip


def rows_of(*values: dict) -> list[Row]:
    return [Row(v, "rows.jsonl", i) for i, v in enumerate(values, 1)]


@pytest.mark.parametrize("name", GOOD)
def test_formats_are_recognised(name):
    form, values, wanted, tools = GOOD[name]
    assert recognise(rows_of(values), {}) == form
    task = Chat.plan(ChatOptions(), Data(train=["x"]), {"train": Rows(rows_of(values))})
    assert task.format == form
    assert task.inferred() == [("task.format", form, "the columns")]
    found = conversation(values, form, names={}, system=None)
    assert found == (wanted, tools)


def test_columns_can_have_other_names_and_formats_can_be_forced():
    names = {"prompt": "question", "completion": "reply"}
    both = {"question": "Hi", "reply": "Hello", "messages": HI_SYSTEM}
    assert recognise(rows_of({"question": "Hi", "reply": "Hello"}), names) == "prompt_completion"
    assert recognise(rows_of(both), names) == "messages"
    forced = Chat.plan(ChatOptions(format="prompt_completion", columns=names), Data(train=["x"]), {"train": Rows(rows_of(both))})
    assert forced.record(rows_of(both)[0]).target.messages == HI
    assert forced.inferred() == []
    assert recognise(rows_of({"dialog": HI}), {"messages": "dialog"}) == "messages"
    assert (
        conversation(
            {"dialog": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
            "sharegpt",
            names={"messages": "dialog"},
            system=None,
        ).messages
        == HI
    )
    with pytest.raises(DataError, match=r"task.format: the columns 'question', 'reply' are no chat format known here") as caught:
        recognise(rows_of({"question": "Hi", "reply": "Hello"}), {})
    assert "prompt: question" in str(caught.value)
    assert all(form in str(caught.value) for form in FORMATS)


def test_a_system_message_of_the_recipe_is_put_where_there_is_none():
    assert conversation({"messages": HI}, "messages", names={}, system="Be brief.").messages == HI_SYSTEM
    assert conversation({"messages": HI_SYSTEM}, "messages", names={}, system="Other.").messages == HI_SYSTEM
    assert conversation({"messages": HI, "system": "Be brief."}, "messages", names={}, system="Other.").messages == HI_SYSTEM


DEEP = [[]]
for _ in range(200):
    DEEP = [DEEP]
BAD = {
    "out of order": ([*HI, *HI[1:]], "roles out of order: message 3 is assistant after assistant"),
    "begins with an answer": (HI[1:], "roles out of order: message 1 is assistant"),
    "two users": ([HI[0], *HI], "roles out of order: message 2 is user after user"),
    "late system": ([*HI, HI_SYSTEM[0]], "roles out of order: message 3 is system after assistant"),
    "no answer": (HI[:1], "no assistant turn to learn from"),
    "no messages": ([], "has no messages"),
    "an object": ({"role": "user"}, "has no list of messages"),
    "a number": (3, "has no list of messages"),
    "text": ("Hi", "its messages are text, and not JSON"),
    "deep text": ("[" * 100_000, "its messages are text, and not JSON"),
    "strings": (["Hi", "Hello"], "message 1: is not an object"),
    "unknown role": ([{"role": "narrator", "content": "x"}, *HI], "message 1: unknown role 'narrator'"),
    "no role": ([{"content": "x"}, *HI], "message 1: unknown role None"),
    "empty": ([HI[0], {"role": "assistant", "content": " \n"}], "message 2: empty content"),
    "missing content": ([HI[0], {"role": "assistant"}], "message 2: empty content"),
    "number content": ([HI[0], {"role": "assistant", "content": 4}], "message 2: content is not a string"),
    "object content": ([{"role": "user", "content": {"text": "Hi"}}, HI[1]], "message 1: content is not a string"),
    "image": ([{"role": "user", "content": [{"type": "image", "url": "x"}]}, HI[1]], "message 1: content is not a string"),
    "surrogate": ([HI[0], {"role": "assistant", "content": "a\ud83d"}], "message 2: content is not valid Unicode"),
    "NUL": ([{"role": "user", "content": "a\0"}, HI[1]], "message 1: content holds a NUL character"),
    "call without result": ([*CALLED[:2], *HI], "message 3: a tool call without its result"),
    "result without call": ([HI[0], CALLED[2], HI[1]], "roles out of order: message 2 is tool after user"),
    "nameless call": ([HI[0], {"role": "assistant", "tool_calls": [{"function": {}}]}], "message 2: a tool call without a function name"),
    "call of text": ([HI[0], {"role": "assistant", "tool_calls": ["look"]}], "message 2: a tool call without a function name"),
    "calls of a number": ([HI[0], {"role": "assistant", "content": "x", "tool_calls": 7}], "message 2: its tool calls are no list"),
    "user's call": ([{**CALLED[1], "role": "user"}, *CALLED[2:]], "message 1: a tool call by the user"),
    "call that is no JSON": ([HI[0], {"from": "function_call", "value": "look()"}], "message 2: a call that is not JSON with a name"),
    "deep call": ([HI[0], {"from": "function_call", "value": "[" * 100_000}], "message 2: a call that is not JSON with a name"),
    "surrogate in a call": ([HI[0], call("look", {"a": ["\ud83d"]})], "text is not valid Unicode"),
    "surrogate in a name": ([HI[0], call("look\ud83d", {})], "text is not valid Unicode"),
    "NUL in a key": ([HI[0], call("look", {"\0": 1})], "text holds a NUL character"),
    "deep arguments": ([HI[0], call("look", {"a": DEEP})], "nested deeper than 64 levels"),
    "a date": ([HI[0], call("look", {"a": datetime.date(2020, 1, 1)})], "holds a date, which JSON does not have"),
    "thoughts": ([HI[0], {**HI[1], "reasoning_content": "\ud83d"}], "text is not valid Unicode"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_messages_are_reasons(name):
    turns, reason = BAD[name]
    assert talk.task().record(rows_of({"messages": turns})[0]) == reason


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ({"messages": HI, "system": "\ud83d"}, "text is not valid Unicode"),
        ({"messages": HI, "tools": "look"}, "tools: text that is not JSON"),
        ({"messages": HI, "tools": 5}, "tools: not a list of objects"),
        ({"messages": HI, "tools": ["look"]}, "tools: not a list of objects"),
        ({"messages": HI, "tools": [{"name": "\ud83d"}]}, "text is not valid Unicode"),
        ({"messages": HI, "tools": [{"x": DEEP}]}, "nested deeper than 64 levels"),
        ({"messages": HI, "tools": "[" * 100_000}, "tools: text that is not JSON"),
        ({}, "has no list of messages"),
    ],
)
def test_bad_columns_are_reasons(values, reason):
    assert talk.task().record(rows_of(values)[0]) == reason


@pytest.mark.parametrize(
    ("form", "values", "reason"),
    [
        ("prompt_completion", {"prompt": "Hi", "completion": ""}, "completion: empty text"),
        ("prompt_completion", {"prompt": 1, "completion": "x"}, "prompt: text is not a string"),
        ("prompt_completion", {"prompt": HI[:1], "completion": "x"}, "prompt: text is not a string"),
        ("prompt_completion", {"prompt": [], "completion": HI[1:]}, "roles out of order: message 1 is assistant"),
        ("alpaca", {"instruction": "Hi", "input": "\0", "output": "x"}, "prompt: text holds a NUL character"),
        ("alpaca", {"instruction": None, "input": "Hi", "output": "x"}, "prompt: empty text"),
        ("alpaca", {"instruction": "Hi"}, "completion: empty text"),
    ],
)
def test_bad_pairs_are_reasons(form, values, reason):
    assert conversation(values, form, names={}, system=None) == reason


def test_tool_calls_of_a_public_data_set():
    folder = Path(os.environ.get("LUTHIER_DATA", Path(__file__).parents[3] / "shared" / "data")) / "alpaca_en_demo"
    if not folder.is_dir():
        pytest.skip("the data are not on this machine")
    rows = rows_of(*json.loads(gzip.decompress((folder / "glaive_toolcall_en_demo.json.gz").read_bytes())))
    task = Chat.plan(ChatOptions(), Data(train=["x"]), {"train": Rows(rows)})
    assert task.format == "sharegpt"
    records = [r for row in rows if not isinstance(r := task.record(row), str)]
    assert len(records) == len(rows) == 300
    known = talk.tokenizer(talk.trl_template("qwen2_5"))
    encoded = task.encode(records, known, config=None, max_length=100_000)
    assert not encoded.rejected
    assert encoded.counts["turns_hidden"] == encoded.counts["contexts_changed"] == 0
    for row, example in list(zip(rows, encoded.tokens.examples(), strict=True))[:100]:
        said = [(m["from"], m["value"]) for m in row.values["conversations"] if m["from"] in ("gpt", "function_call")]
        for (role, text), shown in zip(said, talk.runs(example, known), strict=True):
            if role == "gpt":
                assert shown == f"{text}<|im_end|>"
            else:
                assert json.loads(shown.removeprefix("<tool_call>\n").removesuffix("\n</tool_call><|im_end|>")) == json.loads(text)


# ── the books balance ────────────────────────────────────────────────────────────────────────────

TEXT = st.one_of(
    st.text(max_size=6), st.sampled_from(["Hi", "<|im_end|>", "<|im_start|>user\n", "\ud83d", "a\0b", " ", "{{ x }}", "long " * 60])
)
JSON = st.recursive(st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), TEXT, st.binary(max_size=2)), lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)), max_leaves=6)  # fmt: skip
TURN = st.one_of(
    st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "tool", "system", "gpt", "function_call"]), "content": st.one_of(TEXT, JSON)}, optional={"tool_calls": JSON, "name": JSON, "from": JSON}),
    st.builds(lambda name, arguments, result: call(name, arguments), TEXT, JSON, TEXT),
    JSON,
)  # fmt: skip
ROW = st.one_of(
    st.fixed_dictionaries({"messages": st.one_of(st.lists(TURN, max_size=4), JSON)}, optional={"tools": JSON, "system": JSON}),
    st.builds(lambda a, b: {"messages": messages(a, b)}, TEXT, TEXT),
    st.builds(lambda a, b, tools: {"messages": [*messages(a), call("look", b), {"role": "tool", "content": a}, *messages(a, a)[1:]], "tools": tools}, TEXT, JSON, JSON),
    st.dictionaries(TEXT, JSON, max_size=2),
)  # fmt: skip
KNOWN = {"chatml": talk.tokenizer(CHATML), "gemma": talk.tokenizer(talk.trl_template("gemma"), bos="<bos>"), "deepseekv3": talk.tokenizer(talk.trl_template("deepseekv3"))}  # fmt: skip


@settings(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(mixed=st.lists(ROW, max_size=6), template=st.sampled_from(sorted(KNOWN)), graded=st.sampled_from(["assistant", "last", "all"]))
def test_rows_in_are_rows_learned_and_rows_quarantined(mixed, template, graded):
    data = Data(train=["x"], validation_share=0.3, test_share=0.3, max_bad_share=0.95)
    good = [{"messages": messages(f"Hello {i}", "there")} for i in range(12)]
    rows = {"train": Rows(rows_of(*good, *copy.deepcopy(mixed)))}
    task = Chat.plan(ChatOptions(format="messages", graded=graded), data, rows)
    prepared = assemble(rows, data, record=task.record, stratum=task.stratum, seed=0)
    for part, records in list(prepared.parts.items()):
        encoded = task.encode(records, KNOWN[template], config=None, max_length=60)
        quarantine(prepared, part, encoded.rejected, most=data.max_bad_share)
        assert len(encoded.tokens) == len(prepared.parts[part]) == prepared.summary[part]
        assert all((example["labels"] != -100).any() for example in encoded.tokens.examples()[:])
    assert len(good) + len(mixed) == sum(len(p) for p in prepared.parts.values()) + len(prepared.quarantined)
    assert prepared.summary["rows_quarantined"] == len(prepared.quarantined)
    places = [(r.file, r.line) for p in prepared.parts.values() for r in p] + [(q.file, q.line) for q in prepared.quarantined]
    assert sorted(places) == [("rows.jsonl", i) for i in range(1, len(rows["train"].rows) + 1)], "each once, under its own line"
    assert all(q.reason for q in prepared.quarantined)


# ── models, templates and files that cannot be ───────────────────────────────────────────────────


def recipe(folder: Path, rows: list[dict], known=None, **sections: object) -> dict:
    """A recipe for a tiny Llama, with its own tokenizer where one is given."""
    sizes = (
        {
            "vocab_size": len(known),
            "pad_token_id": known.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": known.eos_token_id,
            "max_position_embeddings": 128,
        }
        if known
        else {}
    )
    tiny.save("llama", folder / "model", **sizes)
    if known:
        known.save_pretrained(folder / "model")
    file = folder / "rows.jsonl"
    file.write_text("\n".join(json.dumps(r) for r in rows), encoding="utf-8")
    return {
        "data": {"train": str(file)},
        "task": "chat",
        "model": str(folder / "model"),
        "output": {"folder": str(folder / "runs"), "name": "x"},
        **sections,
    }


ROWS = [{"messages": messages(f"Hello {i}", "This is text.")} for i in range(20)]


def test_templates_that_fail_or_loop_refuse_the_training(tmp_path):
    file = tmp_path / "mine.jinja"
    made = recipe(tmp_path, ROWS, talk.tokenizer(CHATML), task={"type": "chat", "template": str(file)})
    with pytest.raises(DataError, match="cannot be read"):
        luthier.check(made)
    for template, reason in (
        ("{{ raise_exception('not like this') }}", "the chat template refuses: not like this"),
        ("{{ messages[0].nothing.at_all }}", "the chat template refuses: 'dict object' has no attribute 'nothing'"),
        ("{% for m in messages %}", "the chat template is not valid"),
    ):
        file.write_text(template, encoding="utf-8")
        with pytest.raises(LuthierError, match=r"task\.template") as caught:
            luthier.check(made)
        assert reason in str(caught.value)


def test_a_template_that_loops_is_given_up_after_a_few_rows(tmp_path, monkeypatch):
    monkeypatch.setattr("luthier.tasks.sandbox.SECONDS", 0.1)
    known = talk.tokenizer("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}")
    with pytest.raises(
        TemplateError, match=r"chat template: the chat template ran longer than .* seconds\n  → give another with task.template"
    ):
        talk.task().encode([talk.record(r["messages"]) for r in ROWS], known, config=None, max_length=99)


@pytest.mark.parametrize("named", [{"pad": None}, {"pad": None, "eos": None}, {"eos": None}])
def test_tokenizers_without_a_pad_or_end_token(tmp_path, named):
    """A template that closes turns with a token of its own is enough; without one there must be an end token."""
    checked = luthier.check(recipe(tmp_path, ROWS, talk.tokenizer(CHATML, **named)))
    assert checked.summary["rows_quarantined"] == 0
    assert any("has no pad token" in n for n in checked.notes) == ("pad" in named)
    if "eos" in named:
        (tmp_path / "plain").mkdir()
        with pytest.raises(ModelError, match="neither a chat template nor an end token"):
            luthier.check(recipe(tmp_path / "plain", ROWS, talk.tokenizer(None, **named)))


def test_bad_rows_of_a_file_are_quarantined_with_their_lines(tmp_path):
    bad = [{"messages": turns} for name, (turns, _) in BAD.items() if name not in ("a date",)]
    made = recipe(tmp_path, [*ROWS, *bad, *ROWS], talk.tokenizer(CHATML))
    made["data"]["max_bad_share"] = 0.8
    checked = luthier.check(made)
    assert [q.line for q in checked.quarantined] == list(range(21, 21 + len(bad)))
    assert checked.summary["rows_read"] == 40 + len(bad)
    made["data"]["max_bad_share"] = 0.05
    with pytest.raises(DataError, match="rows cannot be used; first: roles out of order") as caught:
        luthier.check(made)
    assert "max_bad_share" in str(caught.value)


def test_text2text_rows_that_cannot_be():
    task = Text2Text(Text2TextOptions(), Data(train=["x"]))
    bad = [
        ("a\ud83d", "b"),
        ("a", "b\ud83d"),
        ("a\0", "b"),
        ("a", ""),
        ("", "b"),
        (["a", 1], "b"),
        ("a", []),
        ("a", [3]),
        (3, "b"),
        ("a", None),
        ("a", {"b": 1}),
    ]
    assert all(isinstance(task.record(Row({"text": s, "label": t}, "x", 1)), str) for s, t in bad)
    good = [task.record(Row({"text": s, "label": t}, "x", 1)) for s, t in (("a", "b " * 90), ("a " * 500, "b"), (["a", "c"], ["b", "d"]))]
    encoded = task.encode(good, talk.tokenizer(CHATML), config=tiny.config("llama"), max_length=64)
    assert dict(encoded.rejected) == {0: "target longer than 32 tokens"}
    assert encoded.counts["sources_cut"] == 1
    with pytest.raises(ModelError, match="has no end token"):
        task.encode(good, talk.tokenizer(CHATML, eos=None), config=tiny.config("llama"), max_length=64)


def test_a_line_too_long_to_read_is_quarantined(tmp_path):
    file = tmp_path / "rows.jsonl"
    with file.open("w", encoding="utf-8") as out:
        out.write(json.dumps(ROWS[0]) + "\n")
        out.write('{"messages": [{"role": "user", "content": "' + "x" * (50 << 20) + '"}]}\n')
        out.write(json.dumps(ROWS[1]) + "\n" + '{"messages": "' + "é" * MOST)
    found = read(file)
    assert [r.line for r in found.rows] == [1, 3]
    assert [(q.line, q.reason, len(q.text)) for q in found.quarantined] == [
        (2, "a line of 52,428,848 characters, longer than 16 Mi", 200),
        (4, "a line of 16,777,230 characters, longer than 16 Mi", 200),
    ]
