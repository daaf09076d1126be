"""Examples in the prompt: which ones, how many fit, and never the row itself."""

from __future__ import annotations

import json
import random

import pytest
from click.testing import CliRunner

import luthier
from luthier.cli.main import root
from luthier.data.prepare import Record
from luthier.data.tokens import UNGRADED
from luthier.errors import LuthierError
from luthier.recipe import load_recipe
from luthier.recipe.sections import Data
from luthier.recipe.tasks.text2text import Text2TextOptions
from luthier.tasks.text2text import Text2Text
from luthier.workflow import in_context as module
from luthier.workflow.in_context import chosen, in_context
from tests import tiny
from tests.tasks.talk import messages

COLOURS = ("bright", "warm", "cold", "late")


def rows_of(count: int = 60) -> list[dict[str, str]]:
    draw = random.Random(0)
    return [{"text": " ".join(draw.sample(tiny.WORDS, 4)), "label": draw.choice(COLOURS)} for _ in range(count)]


@pytest.fixture
def asked(tmp_path):
    """A recipe for a tiny model that writes, with sixty rows; with another task or other rows."""

    def made(task: str = "text2text", rows=None, **sections):
        path = tmp_path / f"{task}.jsonl"
        path.write_text("\n".join(map(json.dumps, rows or rows_of())))
        folder = tmp_path / "llama"
        if not folder.exists():
            tiny.save("llama", folder, max_position_embeddings=512)
        recipe = {
            "data": {"train": str(path), "test_share": 0.3},
            "task": {"type": task, "max_new_tokens": 4},
            "model": {"name": str(folder)},
            "training": {"epochs": 1, "threads": 1, "learning_rate": 3e-3},
            "evaluation": {"bootstrap": 100, "written": 5, "baselines": [], "general_probe": False},
            "output": {"folder": str(tmp_path / "runs"), "name": "tiny"},
        }
        return {k: {**recipe.get(k, {}), **sections.get(k, {})} for k in {*recipe, *sections}}

    return made


@pytest.fixture
def prompts(monkeypatch):
    """Every set of rows that the model is asked, in order."""
    seen: list[list[Record]] = []
    real = module._encoded

    def encoded(task, loaded, rows):
        seen.append(list(rows))
        return real(task, loaded, rows)

    monkeypatch.setattr(module, "_encoded", encoded)
    return seen


def test_prompts_hold_the_right_examples_before_the_question(asked, prompts):
    found = in_context(load_recipe(asked()), shots=3, resamples=100)
    plain, shown = prompts[0], prompts[1]
    answers = {f"{r['text']}\n{r['label']}" for r in rows_of()}
    assert found.used == {3: len(plain)}
    for bare, full in zip(plain, shown, strict=True):
        *examples, question = full.text.split("\n\n")
        assert question == bare.text
        assert len(set(examples)) == 3
        assert set(examples) <= answers
        assert full.target == bare.target
    for name, score in found.without.items():
        assert found.differences[name][0] == pytest.approx(found.shown[name]["value"] - score["value"])
        assert score["low"] <= score["value"] <= score["high"]
    assert {"loss", "exact_match"} <= set(found.differences)
    assert found.without["exact_match"]["n"] == 5
    again = in_context(load_recipe(asked()), shots=3, resamples=100)
    assert again == found


def test_no_row_that_is_asked_is_an_example(asked, prompts, tmp_path):
    """The examples' file holds every row that is asked, under other letters too."""
    rows = rows_of(12)
    path = tmp_path / "pool.jsonl"
    path.write_text("\n".join(json.dumps(r) for r in [*rows, *({**r, "text": r["text"].upper()} for r in rows), *rows_of(30)[12:]]))
    test = tmp_path / "test.jsonl"
    test.write_text("\n".join(map(json.dumps, rows)))
    for select in ("random", "nearest"):
        prompts.clear()
        found = in_context(load_recipe(asked()), [test], shots=4, select=select, examples=path, resamples=100)
        known = {" ".join(r["text"].split()) for r in rows}
        for full in prompts[1]:
            examples = [e.split("\n")[0].lower() for e in full.text.split("\n\n")[:-1]]
            assert len(examples) == 4
            assert not known & set(examples)
        assert "24 rows are no examples: they ask what a row of the test asks" in found.notes


def test_fewer_examples_are_shown_where_the_context_is_short(asked, prompts, tmp_path):
    folder = tiny.save("llama", tmp_path / "short", max_position_embeddings=30)
    found = in_context(load_recipe(asked(model={"name": str(folder)})), shots=6, resamples=100)
    assert 0 < max(found.used) < 6
    assert sum(found.used.values()) == len(prompts[0])
    assert any("are shown fewer than 6 examples: no more fit into 30 tokens" in n for n in found.notes)
    most = max(found.used)
    words = [len(r.text.split()) for r in prompts[1]]
    assert max(words) + 1 + 4 <= 30, "the answer has room too"
    assert max(words) + 5 + 1 + 4 > 30, f"{most} are as many as fit"


def test_nearest_are_those_with_the_same_words_and_stand_next_to_the_question():
    pool = [Record(t, None, ("x",), "f", i) for i, t in enumerate(["a warm meal", "a cold room today", "the staff", "a cold room"])]
    rows = [Record("a cold room again", None, ("x",), "f", 9)]
    assert chosen(rows, pool, shots=2, select="nearest", seed=0) == [[1, 3]]
    assert chosen(rows, pool, shots=3, select="random", seed=0) == chosen(rows, pool, shots=3, select="random", seed=0)
    assert len(set(chosen(rows, pool, shots=4, select="random", seed=0)[0])) == 4
    wordless = [Record("!!", None, ("x",), "f", i) for i in range(3)]
    assert len(chosen(rows, wordless, shots=2, select="nearest", seed=0)[0]) == 2


def test_conversations_are_shown_as_earlier_turns_and_only_the_last_answer_is_graded(asked, prompts):
    rows = [{"messages": [{"role": "system", "content": "be warm"}, *messages(r["text"], r["label"])]} for r in rows_of()]
    recipe = asked("chat", rows)
    found = in_context(load_recipe(recipe), shots=2, resamples=100)
    for bare, full in zip(prompts[0], prompts[1], strict=True):
        turns = full.target.messages
        assert [m["role"] for m in turns] == ["system", *["user", "assistant"] * 3]
        assert turns[-2:] == bare.target.messages[-2:]
        own = {m["content"] for m in turns[1:5:2]}
        assert bare.target.messages[1]["content"] not in own
    assert found.without["bits_per_byte"]["n"] == len(prompts[0])
    run = luthier.train(recipe)
    trained = in_context(run, shots=2, select="nearest", resamples=100)
    assert trained.without["loss"]["value"] < found.without["loss"]["value"]


def test_documents_are_shown_before_another_and_cost_nothing(asked, prompts):
    found = in_context(load_recipe(asked("causal")), shots=2, resamples=100)
    assert found.used == {2: len(prompts[0])}
    assert all(len(r.pair.split("\n\n")) == 2 for r in prompts[1])
    assert found.without["loss"]["n"] == found.shown["loss"]["n"] == len(prompts[0])
    assert found.without["loss"]["value"] != found.shown["loss"]["value"]
    task = module.dataset(load_recipe(asked("causal"))).task
    alone, shown = (task.encode(rows[:3], tiny.tokenizer("llama"), config=None, max_length=64).tokens.examples() for rows in prompts[:2])
    for a, b in zip(alone, shown, strict=True):
        before = len(b["input_ids"]) - len(a["input_ids"])
        assert before > 0
        assert list(b["input_ids"][before:]) == list(a["input_ids"])
        assert list(b["labels"]) == [UNGRADED] * before + list(a["labels"])


def test_an_answer_ends_where_the_next_example_would_begin():
    task = Text2Text(Text2TextOptions(), Data(train=["x"]))
    assert task.first_answer(" warm\n\nthe next question\ncold") == "warm"


def test_what_cannot_be_shown_is_refused(asked, recipe):
    with pytest.raises(LuthierError, match="task: few_shot"):
        in_context(load_recipe(recipe), shots=2)
    with pytest.raises(LuthierError, match="rows can be shown, fewer than 500"):
        in_context(load_recipe(asked()), shots=500)


def test_the_command_sets_both_side_by_side(asked, tmp_path):
    path = tmp_path / "recipe.yaml"
    path.write_text(json.dumps(asked()))
    shown = CliRunner().invoke(root, ["evaluate", str(path), "--shots", "2", "--select", "nearest"])
    assert shown.exit_code == 0, shown.output
    assert "0 examples" in shown.output
    assert "2 examples" in shown.output
    told = json.loads(CliRunner().invoke(root, ["evaluate", str(path), "--shots", "2", "--json"]).stdout)
    assert set(told["without"]) == set(told["shown"]) == set(told["differences"])
    refused = CliRunner().invoke(root, ["evaluate", str(path), "--select", "nearest"])
    assert refused.exit_code == 2
    assert "--select is for --shots" in refused.output
