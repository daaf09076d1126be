"""What is graded of a conversation: the assistant's turns and their stop tokens, whatever the template, and nothing else."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from luthier.data.tokens import UNGRADED
from luthier.errors import ModelError
from luthier.tasks import sandbox
from luthier.tasks.template import PLAIN, Renderer, TemplateError
from luthier.tasks.tokenizer import renderer_of, stop_ids, turn_end
from tests.tasks import talk
from tests.tasks.talk import CHATML, TOOLS, call, graded, messages, record, task

QUICK = settings(max_examples=40, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
IM_END, EOS_V3 = "<|im_end|>", "<｜end▁of▁sentence｜>"


# ── what each format writes, told again without its template ─────────────────────────────────────


def dumped(one: dict) -> str:
    arguments = one["function"]["arguments"]
    return json.dumps(json.loads(arguments) if isinstance(arguments, str) else arguments, ensure_ascii=False)


def name(one: dict) -> str:
    return one["function"]["name"]


def hermes(turn: dict) -> str:
    """`<tool_call>` blocks, one below the other, after the content."""
    blocks = [f'<tool_call>\n{{"name": "{name(c)}", "arguments": {dumped(c)}}}\n</tool_call>' for c in turn.get("tool_calls", ())]
    return "\n".join([*([turn["content"]] if turn["content"] else []), *blocks])


def llama3_1(turn: dict) -> str:
    if "tool_calls" in turn:
        (one,) = turn["tool_calls"]
        return f'{{"name": "{name(one)}", "parameters": {dumped(one)}}}'
    return turn["content"].strip()


def qwen3(turns: list[dict], place: int) -> str:
    """The last turn has a place for thoughts, empty here, which the model has to write; a turn before it has none."""
    last = place == len(turns) - 1
    return ("<think>\n\n</think>\n\n" if last else "") + hermes({**turns[place], "content": (turns[place]["content"] or "").lstrip("\n" if last else "")})  # fmt: skip


def deepseek(turn: dict) -> str:
    if "tool_calls" in turn:
        (one,) = turn["tool_calls"]
        return f"<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>{name(one)}\n```json\n{dumped(one)}\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"
    return turn["content"]


def lfm2(turn: dict) -> str:
    def shown(value: object) -> str:
        return (
            "'" + value.replace("\\", "\\\\").replace("'", "\\'").replace("\n", "\\n").replace("\r", "\\r") + "'"
            if isinstance(value, str)
            else str(value)
        )

    if "tool_calls" in turn:
        made = [f"{name(c)}({', '.join(f'{k}={shown(v)}' for k, v in json.loads(dumped(c)).items())})" for c in turn["tool_calls"]]
        return f"<|tool_call_start|>[{', '.join(made)}]<|tool_call_end|>"
    return turn["content"]


def gpt_oss(turns: list[dict], place: int) -> str:
    turn = turns[place]
    if "tool_calls" in turn:
        (one,) = turn["tool_calls"]
        return f" to=functions.{name(one)}<|channel|>commentary json<|message|>{dumped(one)}<|call|>"
    return f"<|channel|>final<|message|>{turn['content']}" + ("<|return|>" if place == len(turns) - 1 else "<|end|>")


def gemma4(turns: list[dict], place: int) -> str:
    """A call ends with the token that opens its result; Google's quotes are tokens."""
    turn = turns[place]
    if "tool_calls" not in turn:
        return turn["content"].strip() + "<turn|>"
    quote = '<|"|>'
    shown = {True: "true", False: "false"}
    made = ""
    for one in turn["tool_calls"]:
        arguments = sorted(json.loads(dumped(one)).items(), key=lambda kv: kv[0].lower())
        made += f"<|tool_call>call:{name(one)}{{{','.join(f'{k}:' + (quote + v + quote if isinstance(v, str) else shown.get(v, str(v))) for k, v in arguments)}}}<tool_call|>"
    return made + "<|tool_response>"


def glm4(turns: list[dict], place: int) -> str:
    """It has no closing token of its own: what opens the next turn, `<|user|>` or `<|observation|>`, ends this one."""
    turn = turns[place]
    text = "\n<think></think>" + (f"\n{turn['content'].strip()}" if turn["content"] else "")
    for one in turn.get("tool_calls", ()):
        pairs = json.loads(dumped(one)).items()
        text += (
            f"\n<tool_call>{name(one)}\n"
            + "".join(f"<arg_key>{k}</arg_key>\n<arg_value>{v if isinstance(v, str) else json.dumps(v)}</arg_value>\n" for k, v in pairs)
            + "</tool_call>"
        )
    after = turns[place + 1]["role"] if place + 1 < len(turns) else None
    return text + {"user": "<|user|>", "tool": "<|observation|>", None: ""}[after]


class Family(NamedTuple):
    """A template and what it makes of a turn. `expected(turns, place)` with the stop token."""

    expected: Callable[[list[dict], int], str]
    bos: str | None = None
    system: bool = True
    calls: int = 0
    """Calls a turn may hold; 0 where the template knows none."""
    trims: bool = False
    asks_twice: bool = True
    """Whether several turns of a conversation may call."""


def closed(stop: str, body: Callable[[dict], str] = lambda turn: turn["content"]) -> Callable[[list[dict], int], str]:
    return lambda turns, place: body(turns[place]) + stop


def strip(turn: dict) -> str:
    return turn["content"].strip()


FAMILIES = {
    "chatml": Family(closed(IM_END)),
    "llama3": Family(closed("<|eot_id|>", strip), bos="<|begin_of_text|>", trims=True),
    "llama3_1": Family(closed("<|eot_id|>", llama3_1), bos="<|begin_of_text|>", calls=1, trims=True),
    "phi3": Family(closed("<|end|>")),
    "phi3_5": Family(closed("<|end|>")),
    "gemma": Family(closed("<end_of_turn>", strip), bos="<bos>", system=False, trims=True),
    "gemma3": Family(closed("<end_of_turn>", strip), bos="<bos>", trims=True),
    "gemma4": Family(gemma4, bos="<bos>", calls=3, trims=True),
    "qwen2_5": Family(closed(IM_END, hermes), calls=3),
    "qwen3": Family(lambda turns, place: qwen3(turns, place) + IM_END, calls=3),
    "qwen3_instruct_2507": Family(closed(IM_END, hermes), calls=3),
    "deepseekv3": Family(closed(EOS_V3, deepseek), bos="<｜begin▁of▁sentence｜>", calls=1, asks_twice=False),
    "cohere": Family(closed("<|END_OF_TURN_TOKEN|>", strip), bos="<BOS_TOKEN>", trims=True),
    "lfm2": Family(closed(IM_END), bos="<|startoftext|>"),
    "lfm2_v2": Family(closed(IM_END, lfm2), bos="<|startoftext|>", calls=3),
    "gptoss": Family(gpt_oss, calls=1),
    "glm4moe": Family(glm4, calls=3, trims=True),
}
CALLERS = [n for n, f in FAMILIES.items() if f.calls]
KNOWN: dict[str, PreTrainedTokenizerFast] = {}


def known(family: str) -> PreTrainedTokenizerFast:
    if family not in KNOWN:
        template = CHATML if family == "chatml" else talk.trl_template(family)
        KNOWN[family] = talk.tokenizer(
            template, bos=FAMILIES[family].bos, eos="<｜end▁of▁sentence｜>" if family == "deepseekv3" else "<|stop|>"
        )
    return KNOWN[family]


def expected(family: str, turns: list[dict]) -> list[str]:
    return [FAMILIES[family].expected(turns, i) for i, t in enumerate(turns) if t["role"] == "assistant"]


# ── conversations ────────────────────────────────────────────────────────────────────────────────

PIECES = [
    "assistant\n", "<|im_start", "im_end|>", "\nuser\n", "Assistant:\n", "\n\nUser:\n", "{{ messages }}", "{% endfor %}", "{# x #}", "None", "  ", "\n", "\n\n\n",
    "\t", "é", "日本", "👩‍🔬", "｜", "<", "|>", "\\n", '"', "'", "}", "1234567890123456789012345", "model\n", "hello", ". ", "a", "\r\n", " \u200b", "[INST]",
]  # fmt: skip
CONTENT = st.one_of(
    st.lists(st.sampled_from(PIECES), min_size=1, max_size=5).map("".join),
    st.text(min_size=1, max_size=8).map(lambda t: t.replace("\0", "")),
)
CONTENT = CONTENT.filter(lambda t: bool(t.strip()) and not any("\ud800" <= c <= "\udfff" for c in t))
WORD = st.from_regex(r"[a-z]{2,6}", fullmatch=True)
ARGUMENTS = st.dictionaries(WORD, st.one_of(CONTENT, st.integers(-9, 10**12), st.booleans()), max_size=3)


@st.composite
def conversations(draw: st.DrawFn, family: str, *, calling: bool = False) -> list[dict]:
    """Turns of user and assistant, often with the same content twice, some with calls and their results."""
    kind = FAMILIES[family]
    pool = draw(st.lists(CONTENT, min_size=1, max_size=3))
    content = st.one_of(st.sampled_from(pool), CONTENT)
    turns = [{"role": "system", "content": draw(content)}] if kind.system and draw(st.booleans()) else []
    called = False
    for _ in range(draw(st.integers(1, 3))):
        turns.append({"role": "user", "content": draw(content)})
        for _ in range(draw(st.integers(0, 2)) if calling and (kind.asks_twice or not called) else 0):
            if called and not kind.asks_twice:
                break
            called = True
            made = [
                call(draw(WORD), a if draw(st.booleans()) else json.dumps(a, ensure_ascii=False))
                for a in draw(st.lists(ARGUMENTS, min_size=1, max_size=kind.calls))
            ]
            turns.append({"role": "assistant", "content": None, "tool_calls": [c for turn in made for c in turn["tool_calls"]]})
            turns += [{"role": "tool", "content": draw(content), "name": name(c)} for c in turns[-1]["tool_calls"]]
        turns.append({"role": "assistant", "content": draw(content)})
    if draw(st.booleans()):
        turns.append({"role": "user", "content": draw(content)})
    return turns


def hold(found: list[str], wanted: list[str]) -> None:
    """Equal; where a turn begins with white space that runs on from its header's, in one token, this much may be missing."""
    assert len(found) == len(wanted)
    for got, want in zip(found, wanted, strict=True):
        assert got == want or (want[:1].isspace() and want.endswith(got) and got.lstrip() == want.lstrip())


def plain_tokens(family: str, turns: list[dict]) -> bool:
    """Whether no content holds a control token of the template."""
    renderer = renderer_of(known(family))
    return renderer.control_token(json.dumps(turns, ensure_ascii=False) + "".join(t["content"] or "" for t in turns)) is None


@pytest.mark.parametrize("family", FAMILIES)
@QUICK
@given(data=st.data())
def test_assistant_turns_and_their_stop_tokens_are_graded_and_nothing_else(family, data):
    turns = data.draw(conversations(family))
    assume(plain_tokens(family, turns))
    hold(graded(turns, known(family)), expected(family, turns))
    theirs = known(family).apply_chat_template(turns, tokenize=False)
    assert renderer_of(known(family)).render(record(turns).target.messages).text == theirs


@pytest.mark.parametrize("family", CALLERS)
@QUICK
@given(data=st.data())
def test_calls_are_graded_and_their_results_are_not(family, data):
    turns = data.draw(conversations(family, calling=True))
    assume(plain_tokens(family, turns))
    hold(graded(turns, known(family), tools=TOOLS), expected(family, turns))
    if family == "deepseekv3" and any("tool_calls" in t for t in turns):
        return  # it wants `content: None`, which transformers takes out of messages, and so fails there
    read = [
        {**t, "tool_calls": [{**c, "function": {**c["function"], "arguments": json.loads(dumped(c))}} for c in t["tool_calls"]]}
        if "tool_calls" in t
        else t
        for t in turns
    ]
    theirs = known(family).apply_chat_template(read, tools=TOOLS, tokenize=False)
    assert renderer_of(known(family)).render(record(turns).target.messages, tools=TOOLS).text == theirs


def trl_graded(family: str, turns: list[dict]) -> list[str]:
    """What TRL's training template marks, in the same tokens."""
    own = known(family)
    found = own.apply_chat_template(
        turns, chat_template=talk.trl_template(f"{family}_training"), return_dict=True, return_assistant_tokens_mask=True
    )
    kept: list[list[int]] = []
    for token, mask, before in zip(found["input_ids"], found["assistant_masks"], [0, *found["assistant_masks"]], strict=False):
        if mask and not before:
            kept.append([])
        if mask:
            kept[-1].append(token)
    return [own.decode(run) for run in kept]


@pytest.mark.parametrize("family", ["llama3", "phi3", "phi3_5", "gemma", "gemma3", "qwen2_5", "qwen3", "qwen3_instruct_2507", "deepseekv3", "cohere", "lfm2", "gptoss", "glm4moe"])  # fmt: skip
def test_trl_grades_the_same(family):
    """Its templates differ from ours in what no model has to write, or never gets to write.

    - The line break after the stop token (Gemma, Phi-3, ChatML): generation is over by then; Phi-3's end of text too.
    - The header (`<|start|>assistant`, `<｜Assistant｜>`, Qwen2.5's line break after the role): it is in the prompt.
    - Qwen3's templates write the empty thoughts in every turn, the model's own in the last alone.
    - GLM's ends the last turn with `<|user|>` too; the model's own template shows nothing there.
    """
    turns = messages("Hi\n\nthere", "One.", "Hi\n\nthere", "assistant\nTwo 日本", "So?", "One.")
    header = {"qwen2_5": "\n", "deepseekv3": "<｜Assistant｜>", "gptoss": "<|start|>assistant"}.get(family, "")
    theirs = [
        t.removesuffix("<|stop|>" if family.startswith("phi3") else "").removesuffix("\n").removeprefix(header)
        for t in trl_graded(family, turns)
    ]
    if family == "qwen3":
        theirs[:-1] = [t.removeprefix("<think>\n\n</think>\n\n") for t in theirs[:-1]]
    if family == "glm4moe":
        theirs[-1] = theirs[-1].removesuffix("<|user|>")
    assert graded(turns, known(family)) == theirs == expected(family, turns)


# ── tokenizers of other kinds ────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("kind", ["trimmed", "pieces"])
@pytest.mark.parametrize("family", ["phi3", "gemma", "llama3_1", "qwen2_5"])
@QUICK
@given(data=st.data())
def test_any_tokenizer_gives_the_same(kind, family, data):
    """Offsets without white space (RoBERTa), characters byte by byte (Gemma), special tokens that swallow white space (Phi-3)."""
    calls, turns = FAMILIES[family].calls, data.draw(conversations(family, calling=bool(FAMILIES[family].calls)))
    assume(plain_tokens(family, turns) and "▁" not in json.dumps(turns, ensure_ascii=False))
    if f"{family} {kind}" not in KNOWN:
        KNOWN[f"{family} {kind}"] = talk.tokenizer(talk.trl_template(family), bos=FAMILIES[family].bos, kind=kind, swallow=family == "phi3")
    found, wanted = graded(turns, KNOWN[f"{family} {kind}"], tools=TOOLS if calls else None), expected(family, turns)
    if family == "phi3":  # its header's token takes white space at the beginning along
        found, wanted = [f.lstrip() for f in found], [w.lstrip() for w in wanted]
    hold(found, wanted)


@pytest.mark.parametrize("kind", ["bytes", "trimmed"])
def test_tokens_across_the_edge_of_a_turn(kind):
    """Where the header ends with a space, or nothing closes the turn, no letter of an answer is left out."""
    spoken = (
        "{% for m in messages %}{{ m.role + ': ' + m.content + '\\n\\n' }}{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
    )
    found = graded(messages("hi", "there is text.", "and", "words"), talk.tokenizer(spoken, kind=kind))
    assert [f.strip() for f in found] == ["there is text.", "words"]
    (found,) = graded(messages("hi", "日本"), talk.tokenizer(spoken, kind=kind))
    assert found == "日本", "the space before it is a token of its own, the header's"
    (found,) = graded(messages("hi", "\n\n\ndef f(x):\n    return x"), talk.tokenizer(CHATML, kind=kind))
    assert found.lstrip() == f"def f(x):\n    return x{IM_END}"


# ── which turns, and where they lie ──────────────────────────────────────────────────────────────


def test_graded_last_and_all():
    turns, own = messages("a", "one", "b", "two"), known("chatml")
    assert graded(turns, own, graded="last") == [f"two{IM_END}"]
    assert graded([*turns, {"role": "user", "content": "c"}], own, graded="last") == [f"two{IM_END}"]
    whole = own.apply_chat_template(turns, tokenize=False)
    assert graded(turns, own, graded="all") == [whole.removeprefix("<|im_start|>")], "the first token has nothing before it"
    without_last = "{% for m in messages[:-1] %}{{ m.role + ':' + m.content + eos_token }}{% endfor %}"
    made = task(graded="last")
    encoded = made.encode([record(turns)], talk.tokenizer(without_last), config=None, max_length=999)
    assert dict(encoded.rejected) == {0: "nothing in it is graded"}, "no other turn stands in for the last"


def test_labels_are_the_next_tokens():
    made, own = task(), known("llama3")
    (example,) = made.encode([record(messages("a", "one", "b", "two"))], own, config=None, max_length=999).tokens.examples()[:1]
    ids, labels = example["input_ids"], example["labels"]
    assert all(label in (UNGRADED, after) for label, after in zip(labels[:-1], ids[1:], strict=True))
    assert labels[-1] == own.convert_tokens_to_ids("<|eot_id|>")


def test_cut_conversations():
    """What lies beyond the limit goes; a conversation of which nothing graded is left is rejected, and both are counted."""
    made, own = task(), known("chatml")
    short, long = record(messages("a", "one", "b", "two " * 50)), record(messages("word " * 60, "one"))
    encoded = made.encode([short, long], own, config=None, max_length=40)
    assert dict(encoded.rejected) == {1: "its answers lie beyond the 40 tokens that fit"}
    assert (encoded.counts["rows_cut"], encoded.counts["answers_cut"], len(encoded.rejected)) == (2, 2, 1)
    assert len(encoded.tokens.examples()[0]["input_ids"]) == 40
    assert talk.runs(encoded.tokens.examples()[0], own)[0] == f"one{IM_END}"


@pytest.mark.parametrize("family", ["llama3", "gemma", "deepseekv3", "lfm2"])
def test_no_beginning_is_doubled(family):
    own = known(family)
    made, bos = task(), own.bos_token_id
    assert own("a").input_ids[0] == bos, "the tokenizer puts one before plain text"
    some = record(messages("a", "one"))
    (example,) = made.encode([some], own, config=None, max_length=999).tokens.examples()[:1]
    (asked,) = made.ask([some], own, config=None, max_length=999)
    for ids in (example["input_ids"].tolist(), asked):
        assert ids[0] == bos
        assert bos not in ids[1:]
    assert asked == example["input_ids"].tolist()[: len(asked)] or family == "deepseekv3", "what is asked is what was learned"


@pytest.mark.parametrize("bos", [None, "<|first|>"])
def test_models_without_a_template_get_the_plain_one_and_keep_it(tmp_path, bos):
    own = talk.tokenizer(None, bos=bos)
    turns = [
        *messages("look!", "one"),
        {"role": "user", "content": "look!"},
        call("look", {"where": "é"}),
        {"role": "tool", "content": "RESULT"},
        {"role": "assistant", "content": "two\n\nlines"},
    ]
    found = graded(turns, own, tools=TOOLS)
    assert found == ["one<|stop|>", 'Call: {"name": "look", "arguments": {"where": "é"}}<|stop|>', "two\n\nlines<|stop|>"]
    own.save_pretrained(tmp_path)
    again = AutoTokenizer.from_pretrained(tmp_path)
    assert again.chat_template == ("{{ bos_token }}" if bos else "") + PLAIN
    assert graded(turns, again, tools=TOOLS) == found
    assert again.apply_chat_template(turns, tools=TOOLS, tokenize=False) == renderer_of(own).render(turns, tools=TOOLS).text
    assert stop_ids(again) == [again.eos_token_id]


def test_a_template_of_the_recipe_is_used_and_kept(tmp_path):
    file = tmp_path / "mine.jinja"
    file.write_text("\ufeff" + CHATML, encoding="utf-8")
    own = talk.tokenizer(talk.trl_template("llama3"), bos="<|begin_of_text|>", more=("<|im_start|>", IM_END))
    assert graded(messages("a", "one"), own, template=str(file)) == [f"one{IM_END}"]
    assert own.chat_template == CHATML
    assert turn_end(own) == own.convert_tokens_to_ids(IM_END)


def test_no_end_token_and_no_template():
    with pytest.raises(ModelError, match="no answer could ever end") as caught:
        graded(messages("a", "b"), talk.tokenizer(None, eos=None))
    assert "task.template" in str(caught.value)


CONTROLLED = [
    [{"role": "user", "content": f"hi{IM_END}"}, {"role": "assistant", "content": "b"}],
    [{"role": "user", "content": "hi"}, call("look", {"where": f"a{IM_END}"}), {"role": "tool", "content": "r"}, {"role": "assistant", "content": "b"}],
    [{"role": "user", "content": "hi"}, call("look", json.dumps({f"{IM_END}": 1})), {"role": "tool", "content": "r"}, {"role": "assistant", "content": "b"}],
    [{"role": "user", "content": "hi"}, call("look", {}), {"role": "tool", "content": "r<|im_start|>"}, {"role": "assistant", "content": "b"}],
    [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "b", "reasoning_content": f"x{IM_END}"}],
]  # fmt: skip


@pytest.mark.parametrize("turns", CONTROLLED)
def test_control_tokens_in_messages_are_rejected(turns):
    encoded = task().encode([record(turns), record(messages("a", "b"))], known("qwen3"), config=None, max_length=999)
    assert list(encoded.rejected) == [0]
    assert encoded.rejected[0].startswith("a message holds the control token: <|im_")


def test_control_tokens_in_tools_are_rejected():
    encoded = task().encode([record(messages("a", "b"), tools=[{"name": f"x{IM_END}"}])], known("qwen3"), config=None, max_length=999)
    assert encoded.rejected[0] == f"a message holds the control token: {IM_END}"


def test_what_changes_when_a_turn_follows_is_told():
    """Qwen3 drops the thoughts of earlier turns, DeepSeek asks for thoughts that it does not show, the others change nothing."""
    thoughtful = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>\nhm\n</think>\n\none"}] * 2
    spans = renderer_of(known("qwen3")).render(thoughtful).spans
    assert [s.same_context for s in spans] == [False, True]
    changed = {f: renderer_of(known(f)).render(messages("a", "one", "b", "two")).spans for f in FAMILIES}
    assert {f for f, spans in changed.items() if not all(s.same_context for s in spans)} == {"qwen3", "deepseekv3"}
    assert {f for f, spans in changed.items() if not spans[0].stopped} == set()


def test_no_content_can_pass_for_a_header():
    """The generation prompt ends otherwise than turns begin, and a user writes it."""
    odd = "{% for m in messages %}{{ m.role + '> ' + m.content + eos_token }}{% endfor %}{% if add_generation_prompt %}assistant> now: {% endif %}"
    turns = [{"role": "user", "content": "hi assistant> now: mine"}, {"role": "assistant", "content": "yours"}]
    assert graded(turns, talk.tokenizer(odd)) == ["yours<|stop|>"] or graded(turns, talk.tokenizer(odd)) == [" yours<|stop|>"]


def test_turns_are_found_where_the_text_before_them_changes():
    """A template that counts the messages never shows what the model is given; turns begin after their header all the same."""
    written = "{{ m.role + '> ' }}{{ '(hm) ' if m.role == 'assistant' }}{{ m.content + eos_token }}"
    counting = (
        "{{ messages | length }}{% for m in messages %}" + written + "{% endfor %}{% if add_generation_prompt %}assistant> {% endif %}"
    )
    turns, own = messages("assistant> hi", "one", "(hm) two", "two"), talk.tokenizer(counting)
    assert [g.lstrip() for g in graded(turns, own)] == ["(hm) one<|stop|>", "(hm) two<|stop|>"]
    assert not any(s.same_context for s in renderer_of(own).render(turns).spans)


def test_results_inside_a_call_are_hidden_rather_than_graded():
    """A template that writes the result into the turn that asks for it, and closes neither."""
    called = "{% for c in m.tool_calls or [] %}{{ c.function.name + '() = ' + after.content }}{% endfor %}"
    turn = "{% set after = loop.nextitem %}{% if m.role != 'tool' %}{{ '\n' + m.role + ': ' + (m.content or '') }}" + called + "{% endif %}"
    inline = "{% for m in messages %}" + turn + "{% endfor %}{% if add_generation_prompt %}{{ '\nassistant: ' }}{% endif %}"
    turns = [
        {"role": "user", "content": "hi"},
        call("look", {}),
        {"role": "tool", "content": "RESULT"},
        {"role": "assistant", "content": "done"},
    ]
    shown = renderer_of(talk.tokenizer(inline)).render(turns)
    assert shown.text == "\nuser: hi\nassistant: look() = RESULT\nassistant: done"
    assert shown.hidden == (1,)
    assert [shown.text[s.start : s.end] for s in shown.spans] == ["done"]


def test_calls_that_a_template_mixes_with_results_are_hidden_rather_than_graded():
    """DeepSeek's template closes the second call of a conversation as part of the first one's list."""
    turns = [
        {"role": "user", "content": "hi"},
        call("look", {"a": "b"}),
        {"role": "tool", "content": "RESULT"},
        call("find", {"c": "d"}),
        {"role": "tool", "content": "MORE"},
        {"role": "assistant", "content": "done"},
    ]
    shown = renderer_of(known("deepseekv3")).render(turns)
    assert [shown.text[s.start : s.end] for s in shown.spans] == [f"done{EOS_V3}"]
    assert shown.hidden == (1, 3)
    assert renderer_of(known("lfm2")).render(turns).hidden == (1, 3), "it does not show calls at all"


# ── templates are others' programs ───────────────────────────────────────────────────────────────


def renderer(template: str) -> Renderer:
    return Renderer(template, specials={"eos_token": "</s>"}, special_tokens=["</s>"])


TALK = messages("hi", "there")


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ messages.__class__ }}", "{{ (messages | attr('__class__')).__base__ }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}", "{{ raise_exception.__globals__ }}", "{{ '{0.__class__}'.format(messages) }}",
        "{{ messages.append(1) }}", "{{ messages[0].update(role='x') }}", "{% include '/etc/passwd' %}", "{{ self.__init__.__globals__['os'] }}",
    ],
)  # fmt: skip
def test_templates_cannot_leave_the_sandbox(template):
    """What is asked for is refused, or not there."""
    try:
        shown = renderer(template).prompt(TALK)
    except TemplateError:
        return
    assert shown == ""


@pytest.mark.parametrize(
    "template",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
        "{% macro f(n) %}{% for i in range(9999) %}{{ f(n) if n < 9 }}{% endfor %}{% endmacro %}{% for i in range(9999) %}{{ f(0) }}{% endfor %}",
        "{% set n = namespace(l=[0]) %}{% for a in range(60) %}{% set n.l = n.l + n.l %}{% endfor %}",
        "{% set n = namespace(x='xxxxxxxx') %}{% for a in range(60) %}{% set n.x = n.x ~ n.x %}{% endfor %}",
        "{% for a in range(60) %}{% set ns = namespace(x=1.5) %}{% endfor %}{{ 'x' | center(2000000000) }}",
        "{{ 'x' * 2000000000 }}", "{{ ('x' * 200000) * 200000 }}", "{{ 2 ** 2 ** 30 }}", "{{ [0] * 2000000000 }}", "{{ 'x'.ljust(2000000000) }}", "{{ '%02000000000d' % 1 }}",
        "{{ '%*d' % (2000000000, 1) }}", "{{ '{:>2000000000}'.format(1) }}", "{{ '%02000000000d' | format(1) }}", "{{ ('x' * 200000).replace('x', 'y' * 200000) }}",
        "{{ ('y' * 200000).join('x' * 200000) }}", "{{ 'x' | indent(2000000000, true) }}", "{{ range(2000000000) }}",
        "{% set n = namespace(x=9) %}{% for a in range(60) %}{% set n.x = n.x * n.x %}{% endfor %}",
    ],
)  # fmt: skip
def test_endless_and_huge_templates_are_stopped(template, monkeypatch):
    monkeypatch.setattr(sandbox, "SECONDS", 0.3)
    monkeypatch.setattr(sandbox, "MAX_MEMORY", 1 << 26)
    began = time.monotonic()
    with pytest.raises(TemplateError):
        renderer(template).render(TALK)
    assert time.monotonic() - began < 3
    assert renderer(CHATML).render(TALK).spans, "the next rendering is not hit by what stopped this one"


def test_honest_arithmetic_is_allowed():
    shown = renderer(
        "{{ 'x' * 3 ~ 12345678 * 1000 ~ 7 % 4 ~ '%s-%05d' % ('a', 7) ~ '{:>4}'.format(2) ~ 9999999 | tojson ~ messages | length ~ 'ab'.replace('b', 'c') }}"
    )
    assert shown.prompt(TALK) == "xxx123456780003a-00007   299999992ac"


def test_a_long_template_is_stopped_by_its_own_limit():
    began = time.monotonic()
    with pytest.raises(TemplateError, match="ran longer than 2 seconds"):
        renderer("{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}").prompt(TALK)
    assert time.monotonic() - began < 4


@pytest.mark.parametrize(
    "template",
    ["{% for %}", "{{ x", "{% endfor %}", "{% if a %}" * 200 + "{% endif %}" * 200, "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}"],
)
def test_invalid_templates_are_refused(template):
    with pytest.raises(TemplateError, match="chat template"):
        renderer(template).render(TALK)


def test_refusals_are_reasons():
    """A row that the template refuses is rejected with the template's own words; the others are learned."""
    some = [
        record([{"role": "system", "content": "s"}, *TALK]),
        record(TALK),
        record([*TALK, {"role": "user", "content": "hi"}, call("look", {}), {"role": "tool", "content": "r"}]),
    ]
    encoded = task().encode(some, known("gemma"), config=None, max_length=999)
    assert encoded.rejected[0] == "the chat template refuses: System role not supported"
    assert encoded.rejected[2] == "the chat template refuses: Conversation roles must alternate user/assistant/user/assistant/..."
    assert len(encoded.tokens) == 1


def test_how_arguments_are_shown_does_not_depend_on_earlier_rows():
    """DeepSeek wants arguments as text; a row that no shape fits changes nothing for the next."""
    own = known("llama3_1")
    both = call("look", {"a": 1})
    both["tool_calls"] *= 2
    tail = [{"role": "tool", "content": "r"}, {"role": "assistant", "content": "b"}]
    bad, good = [{"role": "user", "content": "a"}, both, *tail], [{"role": "user", "content": "a"}, call("look", {"a": 1}), *tail]
    encoded = task().encode([record(bad), record(good), record(bad), record(good)], own, config=None, max_length=999)
    assert encoded.rejected == dict.fromkeys((0, 2), "the chat template refuses: This model only supports single tool-calls at once!")
    assert all(talk.runs(e, own)[0] == '{"name": "look", "parameters": {"a": 1}}<|eot_id|>' for e in encoded.tokens.examples()[:2])
