"""Rounds of drawing, rating, learning and comparing, as one recipe."""

from __future__ import annotations

import json
from typing import Any

import pytest

import luthier
from luthier.errors import DataError, LuthierError, RecipeError, RunError
from luthier.feedback.store import Said, Store
from luthier.recipe import load_recipe
from luthier.workflow import rounds
from luthier.workflow.events import Note, silent
from tests import tiny

LENGTH = {"type": "length", "unit": "characters", "per": 40}


@pytest.fixture
def looping(tmp_path, monkeypatch) -> dict[str, Any]:
    monkeypatch.chdir(tmp_path)
    tiny.save("llama", tmp_path / "model")
    rows = [{"prompt": text} for text, _ in tiny.moods_rows(40)]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "data": {"train": str(tmp_path / "prompts.jsonl"), "validation_share": 0.1, "test_share": 0.2},
        "task": {"type": "preference", "max_new_tokens": 8},
        "rounds": {"count": 2, "answers": 3, "rewards": [LENGTH]},
        "model": str(tmp_path / "model"),
        "training": {"epochs": 1, "batch_size": 8, "learning_rate": 3e-3, "threads": 1},
        "evaluation": {"bootstrap": 100, "written": 2},
        "output": {"folder": str(tmp_path / "runs"), "name": "loop"},
    }


def test_each_round_goes_on_from_the_one_before(looping, tmp_path, monkeypatch):
    from luthier.workflow import train

    notes: list[str] = []
    real, ended = train._carry, []

    def stopping(job, run, **rest):
        if run.folder.name.startswith("loop-round-2") and not ended:
            ended.append(run)
            raise KeyboardInterrupt
        real(job, run, **rest)

    monkeypatch.setattr(train, "_carry", stopping)
    with pytest.raises(KeyboardInterrupt):
        luthier.train(looping)
    run = luthier.train(looping, listener=lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert len(ended) == 1
    assert len(list(tmp_path.glob("runs/loop-round-1-*"))) == 1  # what is done is not done again
    first, second = run.facts["rounds"]
    assert first["from"] == str(tmp_path / "model")
    assert second["from"] == str(luthier.find(first["run"]).model)
    assert run.facts["parent"] == luthier.find(first["run"]).id
    for number, line in enumerate((first, second), 1):
        pairs = [json.loads(row) for row in (tmp_path / f"runs/loop-rounds/round-{number}/pairs.jsonl").read_text().splitlines()]
        assert len(pairs) == line["pairs"] > 10
        assert all(p["rewards"][0] > p["rewards"][1] for p in pairs)
        assert all(len(p["chosen"][0]["content"]) > len(p["rejected"][0]["content"]) for p in pairs)
        assert line["reward"]["low"] <= line["reward"]["difference"] <= line["reward"]["high"]
        assert line["reward"]["n"] == 8
    assert any(n.startswith("round 2: reward") for n in notes)
    with pytest.raises(RunError, match="another recipe"):
        luthier.train({**looping, "rounds": {**looping["rounds"], "count": 3}})


def test_people_judge_between_the_draws_and_the_training(looping, tmp_path):
    store = tmp_path / "said.db"
    looping["rounds"] = {"count": 1, "store": str(store), "prompts": 20}
    with pytest.raises(RunError, match="pairs of answers are not judged yet") as caught:
        luthier.train(looping)
    assert "luthier feedback" in str(caught.value.fault.remedy)
    with Store(store) as opened:
        pairs = [c for c in opened.contents().values() if len(set(c["answers"])) == 2 and all(c["answers"])]
        assert len(pairs) > 10
        better = [max((0, 1), key=lambda i, c=c: len(c["answers"][i])) for c in pairs]
        opened.extend([Said("choice", c, "ada", {"picked": b, "order": [0, 1]}, "x") for c, b in zip(pairs[1:], better[1:], strict=True)])
        opened.extend([Said("edit", pairs[0], "ada", {"text": "a warm meal", "of": better[0], "order": [0, 1]}, "x")])
        opened.extend([Said("choice", {**pairs[1], "prompt": "another"}, "ada", {"picked": 0, "order": [0, 1]}, "x")])
    notes: list[str] = []
    run = luthier.train(looping, listener=lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert run.facts["rounds"][0]["pairs"] == len(pairs)
    assert run.facts["data"]["summary"]["rows_read"] == len(pairs)
    assert "a warm meal" in (tmp_path / "runs/loop-rounds/round-1/pairs.jsonl").read_text()
    assert f"{len(pairs)} pairs from 20 prompts; {20 - len(pairs)} prompts gave none" in notes


def test_each_prompt_is_asked_with_its_own_tools(looping, tmp_path, monkeypatch):
    from luthier.inference.writer import Writer

    tools = [{"type": "function", "function": {"name": "weather", "description": "of a place", "parameters": {"type": "object"}}}]
    rows = [{"prompt": text, "tools": tools if i % 2 else None} for i, (text, _) in enumerate(tiny.moods_rows(40))]
    (tmp_path / "prompts.jsonl").write_text("\n".join(map(json.dumps, rows)))
    seen, real = [], Writer.prompt_ids

    def spy(self, prompt, *, tools=None):
        seen.append((prompt[-1]["content"], tools))
        return real(self, prompt, tools=tools)

    monkeypatch.setattr(Writer, "prompt_ids", spy)
    looping["rounds"]["count"] = 1
    luthier.train(looping)
    wanted = {r["prompt"]: r["tools"] for r in rows}
    assert {prompt for prompt, _ in seen} == set(wanted)
    assert all(given == wanted[prompt] for prompt, given in seen)
    pairs = [json.loads(line) for line in (tmp_path / "runs/loop-rounds/round-1/pairs.jsonl").read_text().splitlines()]
    assert all(pair.get("tools") == wanted[pair["prompt"][-1]["content"]] for pair in pairs)
    assert any("tools" in pair for pair in pairs)
    with pytest.raises(DataError, match="brings tools, which people who judge do not see"):
        luthier.train(
            {**looping, "rounds": {"count": 1, "store": str(tmp_path / "said.db")}, "output": {**looping["output"], "name": "people"}}
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rounds": {"count": 1}}, "nobody rates"),
        ({"rounds": {"store": "x.db", "answers": 3}}, "people judge two answers at a time"),
        ({"task": {"type": "chat"}}, "is for the task preference"),
        ({"task": {"type": "preference", "threshold": 3, "columns": {"chosen": "c"}}}, "task.columns.chosen: is not read in rounds"),
    ],
)
def test_what_cannot_be_a_loop_is_refused(change, message, looping):
    with pytest.raises(RecipeError, match=message):
        luthier.check({**looping, **change}, with_model=False)


def test_a_reward_that_fails_is_named_by_its_place_in_the_recipe(looping):
    looping["rounds"]["rewards"] = [LENGTH, {"type": "http", "url": "http://127.0.0.1:9/", "token_env": "NOBODY_SET_THIS"}]
    with pytest.raises(LuthierError, match="has no NOBODY_SET_THIS") as caught:
        luthier.train(looping)
    assert caught.value.fault.where == "rounds.rewards.1.token_env"


def test_the_prompts_are_checked_before_anything_is_drawn(looping, tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"text": "no prompt"}\n' * 40)
    with pytest.raises(LuthierError, match="there is no column 'prompt'"):
        luthier.check(looping, with_model=False)


def test_every_field_takes_effect(looping):
    """count, rewards and store above; those that decide what is drawn here."""
    records = rounds.dataset(rounds.asking(load_recipe(looping))).prepared.parts["train"]
    assert len(rounds._chosen(records, 5, 1, seed=0)) == 5
    first, second = (rounds._chosen(records, 5, n, seed=0) for n in (1, 2))
    assert not {r.key for r in first} & {r.key for r in second}

    def drawn(**options: Any) -> list[Any]:
        resolved = load_recipe({**looping, "rounds": {**looping["rounds"], **options}})
        with rounds.Scorer(resolved.recipe.rounds.rewards, folder=resolved.folder) as scorer:
            judge = rounds.judge_of(scorer, listener=silent)
            return rounds._rated(records[:6], looping["model"], resolved, judge, number=1).rows

    assert drawn() == drawn()
    assert drawn() != drawn(temperature=0.1)
    assert drawn() != drawn(answers=6)
