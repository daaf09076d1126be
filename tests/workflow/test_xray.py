"""The set-ups that ruin a chat model without an error are refused before training, each with its remedy."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import mkdtemp
from typing import Any, NamedTuple

import pytest

import luthier
from luthier.data.tokens import Encoded, assemble_tokens
from luthier.errors import DataError, RecipeError
from luthier.workflow import xray
from tests import tiny
from tests.tasks import talk
from tests.tasks.talk import CHATML, messages

ONE = "{{ '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>' + '\\n' }}"
LOOP = "{% for message in messages %}" + ONE + "{% endfor %}"
PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
assert CHATML == LOOP + PROMPT
FORGETFUL = (  # thoughts are shown in the last turn alone, as in several models' templates
    "{% for message in messages %}{% if message.role == 'assistant' and not loop.last %}"
    "{% set message = {'role': 'assistant', 'content': message.content.split('</think>')[-1]} %}{% endif %}" + ONE + "{% endfor %}" + PROMPT
)
SINGLE = [messages(f"Hello {i}", f"This is text {i}.") for i in range(20)]
SEVERAL = [messages(f"Hello {i}", f"One {i}", "And words?", f"Two {i}") for i in range(20)]


@pytest.fixture
def setup(tmp_path):
    """A recipe for a tiny model with this template and tokenizer, and these rows."""

    def made(template: str | None, rows: list[list[dict]], *, special: dict | None = None, **sections: dict) -> dict:
        known = talk.tokenizer(template, **(special or {}))
        sizes = {
            "vocab_size": len(known),
            "max_position_embeddings": 128,
            "pad_token_id": known.pad_token_id,
            "bos_token_id": known.bos_token_id,
            "eos_token_id": known.eos_token_id,
        }
        folder = tiny.save("llama", Path(mkdtemp(dir=tmp_path)), **sizes)
        known.save_pretrained(folder)
        file = folder / "rows.jsonl"
        file.write_text("\n".join(json.dumps({"messages": r}) for r in rows), encoding="utf-8")
        return {
            "data": {"train": str(file), **sections.get("data", {})},
            "task": {"type": "chat", **sections.get("task", {})},
            "model": str(folder),
            "output": {"folder": str(tmp_path / "runs"), "name": "talk"},
        }

    return made


THINKING = [[{**m, "content": f"<think>hm</think>{m['content']}"} if m["role"] == "assistant" else m for m in r] for r in SEVERAL]
UNSEEN = [messages(f"words {i} " + "words " * 200, "cut off") for i in range(30)]
LONG = [messages(f"words {i}?", "This " * 200) for i in range(10)] + [messages(f"Hello {i}", "This is text.") for i in range(30)]


class Case(NamedTuple):
    """A broken set-up: what is found, in which words, and what else follows from it. `known`: the template that the tokenizer knows."""

    finding: str
    template: str
    rows: list[list[dict]]
    reason: str
    remedy: str
    options: dict[str, Any] = {}  # noqa: RUF012
    also: tuple[str, ...] = ()
    known: str | None = None


BROKEN = {
    "pad hides the stop": Case("pad-is-stop", CHATML, SINGLE, "'<|im_end|>'", "pad token of its own", {"special": {"pad": "<|im_end|>"}}),
    "another role": Case("nothing-graded", CHATML.replace("in messages", "in messages if message.role in ('user', 'model')"), SINGLE, "no token is graded", "give another with task.template"),
    "all answers cut": Case("answers-truncated", CHATML, UNSEEN, "(100%) lose their answer", "raise model.max_length", also=("nothing-graded",)),
    "some answers cut": Case("answers-truncated", CHATML, LONG, "or part of it, to truncation", "raise model.max_length"),
    "beginning twice": Case("special-doubled", "{{ bos_token }}<|first|>" + CHATML, SINGLE, "begin with '<|first|>' twice", "take it out", {"special": {"bos": "<|first|>"}}),
    "last turn stripped": Case("turns-hidden", CHATML.replace("in messages", "in messages[:-1]"), SEVERAL, "does not show 14 of 28", "give another with task.template", also=("stop-never-graded", "context-changes")),
    "only turn stripped": Case("nothing-graded", CHATML.replace("in messages", "in messages[:-1]"), SINGLE, "nothing in it is graded", "the template shows no assistant turn"),
    "last turn only": Case("earlier-turns-ungraded", CHATML, SEVERAL, "graded: last leaves 14 of 28", "set task.graded: assistant", {"task": {"graded": "last"}}),
    "unknown special token": Case("special-unknown", CHATML + "{% if tools %}<|tool_list|>{% endif %}", SINGLE, "the template writes <|tool_list|>", "the model's own template", known=CHATML),
    "earlier turns change": Case("context-changes", FORGETFUL, THINKING, "changes earlier turns", "set task.graded: last"),
    "qwen3's thoughts": Case("context-changes", talk.trl_template("qwen3"), THINKING, "changes earlier turns", "set task.graded: last"),
    "another prompt": Case("context-changes", LOOP + PROMPT.replace("\\n", "\\n<think>"), SINGLE, "its generation prompt differs", "a template without this with task.template"),
    "nothing stops": Case("stop-never-graded", CHATML.replace("<|im_end|>", ""), SINGLE, "would not learn to stop", "such as {{ eos_token }}"),
}  # fmt: skip


def broken(setup, case: Case, **data: object) -> dict:
    recipe = setup(case.known or case.template, case.rows, **{**case.options, "data": data})
    if case.known:
        file = Path(recipe["model"]) / "mine.jinja"
        file.write_text(case.template, encoding="utf-8")
        recipe["task"]["template"] = str(file)
    return recipe


@pytest.mark.parametrize("name", BROKEN)
def test_broken_set_ups_are_refused_until_accepted(setup, name):
    case = BROKEN[name]
    recipe = broken(setup, case, validation_share=0.15, test_share=0.15, max_bad_share=0.8)
    with pytest.raises(DataError) as caught:
        luthier.check(recipe)
    told = str(caught.value)
    (line,) = [part for part in told.split("\n") if part.startswith(f"{case.finding}: ")]
    assert case.reason in line
    assert case.remedy in told.split(line)[1].split("\n")[1]
    assert {n for n in xray.NAMES if f"\n{n}: " in told} == {case.finding, *case.also}
    assert all(f"--accept {n}" in told for n in (case.finding, *case.also))

    recipe["data"]["accept"] = [case.finding, *case.also]
    if "nothing-graded" in recipe["data"]["accept"]:
        with pytest.raises(DataError, match=r"no usable rows|rows cannot be used"):  # there is nothing to train on
            luthier.check(recipe)
        return
    assert [n for n in luthier.check(recipe).notes if n.startswith(f"accepted, {case.finding}: ")]
    for other in case.also:
        recipe["data"]["accept"] = [case.finding]
        with pytest.raises(DataError, match=f"--accept {other}"):
            luthier.check(recipe)


def test_sound_set_ups_are_not_refused(setup):
    for template, rows, options in (
        (CHATML, SEVERAL, {}),
        (None, SEVERAL, {}),
        (CHATML, SEVERAL, {"graded": "all"}),
        (talk.trl_template("qwen3"), SINGLE, {}),
    ):
        checked = luthier.check(setup(template, rows, task=options))
        assert not [n for n in checked.notes if "accepted" in n]
        assert checked.summary["rows_quarantined"] == 0


def test_misspelt_names_are_corrected(setup):
    with pytest.raises(RecipeError, match="did you mean pad-is-stop") as caught:
        luthier.check(setup(CHATML, SINGLE, data={"accept": ["pad-is-stopp"]}))
    assert "data.accept" in str(caught.value)
    with pytest.raises(RecipeError, match="one of: nothing-graded"):
        luthier.check(setup(CHATML, SINGLE, data={"accept": ["whatever"]}))


def test_text2text_targets_are_looked_at_too(tmp_path):
    """A target longer than its share of the context is rejected, and many of them are a finding."""
    folder = tiny.save("llama", tmp_path / "model")
    file = tmp_path / "rows.jsonl"
    file.write_text(
        "\n".join(json.dumps({"text": f"the film was {i}", "label": "great " * (40 if i % 4 == 0 else 3)}) for i in range(40)),
        encoding="utf-8",
    )
    recipe = {
        "data": {"train": str(file), "max_bad_share": 0.5},
        "task": "text2text",
        "model": str(folder),
        "output": {"folder": str(tmp_path / "runs"), "name": "x"},
    }
    with pytest.raises(DataError, match="answers-truncated") as caught:
        luthier.check(recipe)
    assert "task.max_target" in str(caught.value)
    checked = luthier.check({**recipe, "data": {**recipe["data"], "accept": ["answers-truncated"]}})
    assert checked.summary["rows_quarantined"] == 10
    assert {q.reason for q in checked.quarantined} == {"target longer than 32 tokens"}


def test_samples_show_what_is_graded():
    known = talk.tokenizer(CHATML)
    encoded = talk.task().encode([talk.record(messages("Hello", "there"))], known, config=None, max_length=99)
    (sample,) = xray.samples(encoded.tokens, known)
    assert sample == [("<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n", False), ("there<|im_end|>", True)]


def test_a_part_without_examples_is_a_finding_and_not_an_error():
    known = talk.tokenizer(CHATML)
    found = xray.findings(talk.task(), Encoded(assemble_tokens([]), {0: "why"}, {}), known, None)
    assert [f.name for f in found] == ["nothing-graded"]
