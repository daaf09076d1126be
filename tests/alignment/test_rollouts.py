"""Learning from the model's own answers: what is drawn is what is learned from, and a run that was stopped goes on to the same bits."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
import yaml

import luthier
from luthier.alignment.credit import Rollout
from luthier.alignment.scoring import Scorer
from luthier.alignment.watch import Watch
from luthier.data.prepare import Record
from luthier.errors import Interrupted, LuthierError
from luthier.evaluation.learning import signs
from luthier.models.adapters.method import trained
from luthier.models.value import NAME
from luthier.recipe import load_recipe
from luthier.recipe.sections import Data
from luthier.recipe.tasks.policy import PolicyOptions
from luthier.tasks.policy import Policy, Question
from luthier.workflow import policy
from luthier.workflow.build import build
from luthier.workflow.events import Note, silent
from luthier.workflow.memory import memory
from luthier.workflow.stream import stream
from tests import tiny
from tests.workflow.test_resume import endings, newest_run, stopping_at

LENGTH = {"type": "length", "unit": "characters", "per": 20}
REWARDS = """
def sometimes(prompt, completions, row):
    return [None if i % 3 == 0 else float(len(c)) for i, c in enumerate(completions)]

def same(prompt, completions, row):
    return [0.5] * len(completions)

def broken(prompt, completions, row):
    raise ValueError("no such thing")
"""


@pytest.fixture
def asking(tmp_path, monkeypatch) -> dict[str, Any]:
    """A recipe that teaches a new tiny model to write long answers."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "judges.py").write_text(REWARDS)
    rows = [{"prompt": text, "n": i} for i, (text, _) in enumerate(tiny.moods_rows(60))]
    (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return {
        "data": {"train": str(tmp_path / "rows.jsonl"), "validation_share": 0.1, "test_share": 0.1},
        "task": {"type": "policy", "rewards": [LENGTH], "max_new_tokens": 6, "completions": 4},
        "model": {"from_scratch": {"architecture": "llama", "vocabulary": 320, "hidden_size": 16, "layers": 1, "heads": 2, "context": 96}},
        "training": {"epochs": 2, "batch_size": 8, "learning_rate": 3e-3, "threads": 1, "schedule": "constant", "warmup": 0},
        "evaluation": {"bootstrap": 100, "written": 4},
        "output": {"folder": str(tmp_path / "runs"), "name": "case"},
    }


def figures(run: luthier.Run, name: str) -> list[float]:
    return [line["parts"][name] for line in run.lines("log.jsonl")]


@pytest.mark.parametrize("algorithm", ["grpo", "rloo", "ppo"])
def test_every_algorithm_raises_the_reward(algorithm, asking):
    asking["task"] |= {"algorithm": algorithm, "beta": 0.0, "iterations": 2}
    asking["training"] |= {"epochs": 5, "learning_rate": 2e-2}
    run = luthier.train(asking)
    rewards = figures(run, "reward")
    assert np.mean(rewards[-8:]) > np.mean(rewards[:8]) + 0.2
    assert run.scores["methods"]["model"]["reward"]["value"] > 0.5
    plain, told = hf.AutoModelForCausalLM.from_pretrained(run.model, output_loading_info=True)
    assert not told["unexpected_keys"]  # the value's head stays behind
    assert not told["missing_keys"]
    assert not hasattr(plain, NAME)
    page = run.report.read_text()
    assert "What it learned from its own answers" in page
    assert "The same prompts, answered along the way" in page


def test_a_stopped_run_goes_on_to_the_same_bits(asking):
    """Stopped in a round, and between two."""
    asking["task"] |= {"algorithm": "ppo", "ahead": 2, "iterations": 2, "resample": 1}
    asking["training"]["epochs"] = 1
    whole = endings(luthier.train(asking))
    for step in (3, 4):
        with pytest.raises(Interrupted):
            luthier.train(asking, listener=stopping_at(step))
        assert endings(luthier.resume(newest_run(asking))) == whole


def rollouts_of(asking: dict[str, Any]) -> tuple[Any, Any]:
    job = build(load_recipe(asking))
    recipe = job.resolved.recipe
    given = stream(job.tokens["train"], job.data.prepared.parts["train"], job.task, recipe.training, job.loaded.layout, course=job.course)
    return job, policy.rollouts(job, given, listener=silent)


def test_what_is_learned_from_is_what_was_drawn(asking):
    """Tokens, likelihoods and rewards of an update are those of the answers, as plain transformers computes them."""
    asking["task"] |= {"iterations": 2, "temperature": 0.7}
    asking["training"]["max_tokens"] = 60  # several batches
    job, updates = rollouts_of(asking)
    found = iter(updates)
    first = next(found)
    state = json.loads(json.dumps(updates.state_dict()))
    assert len(first.batches) > 1
    prompts = job.tokens["train"].examples()
    plain = hf.AutoModelForCausalLM.from_config(job.loaded.model.config, attn_implementation="sdpa").eval()
    plain.load_state_dict(job.loaded.model.state_dict())
    seen = 0
    for rollout in state["rollouts"]:
        ids = prompts[rollout["row"]]["input_ids"].tolist()
        assert len(rollout["answers"]) == 4
        for answer, old, reference, done in zip(*(rollout[n] for n in ("answers", "old", "reference", "finished")), strict=True):
            with torch.no_grad():
                logits = plain(input_ids=torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1] / 0.7
            expected = torch.log_softmax(logits, -1).gather(1, torch.tensor(answer)[:, None])[:, 0]
            np.testing.assert_allclose(old, expected, atol=1e-5)
            np.testing.assert_allclose(reference, expected, atol=1e-5)
            assert done == (answer[-1] in updates._drawing.stop_ids)
            assert done or len(answer) == 6
            seen += len(answer)
    graded = sum(int((b.labels != -100).sum()) for b in first.batches)
    assert graded == seen == sum(len(b.targets["advantage"]) for b in first.batches)
    other = next(iter(rollouts_of(asking)[1]))
    assert all(torch.equal(a.input_ids, b.input_ids) for a, b in zip(first.batches, other.batches, strict=True))
    resumed = rollouts_of(asking)[1]
    resumed.load_state_dict(state)
    for a, b in zip(next(found).batches, next(iter(resumed)).batches, strict=True):
        assert torch.equal(a.input_ids, b.input_ids)
        assert all(torch.equal(a.targets[n], b.targets[n]) for n in a.targets)


def test_answers_without_a_score_are_left_out_and_counted(asking):
    asking["task"] |= {"rewards": [{"type": "function", "function": "judges:sometimes"}, {"type": "json_schema", "weight": 0}]}
    asking["evaluation"]["written"] = 0
    asking["evaluation"]["metric"] = "loss"
    notes: list[str] = []
    run = luthier.train(asking, listener=lambda e: notes.append(e.text) if isinstance(e, Note) else None)
    assert set(figures(run, "unscored")) == {0.5}  # the first and the fourth of four
    assert any("could not be judged: function: gave no score" in n for n in notes)
    assert {"reward_function", "reward_json_schema", "reward_json_schema.parsed", "reward_json_schema.valid"} <= run.lines("log.jsonl")[0][
        "parts"
    ].keys()


@pytest.mark.parametrize("mean_over", ["sequence", "token"])
def test_an_update_of_which_nothing_is_kept_tells_its_figures(mean_over, asking):
    asking["task"] |= {"truncated": "mask", "normalize": mean_over}
    job, updates = rollouts_of(asking)
    batch = next(iter(updates)).batches[0]
    told = dict(zip(job.task.told, batch.targets["told"].tolist(), strict=True))
    work = job.task.loss(job.loaded.layout)
    some = work(job.loaded.model, batch)
    batch.targets["keep"].zero_()
    none = work(job.loaded.model, batch)
    assert none.sum.item() == 0.0 < none.weight < 1e-3
    for name in ("reward", "length", "truncated", "zero_variance"):
        assert none.parts[name] / none.weight == pytest.approx(told[name])
    assert none.parts["entropy"] / none.weight == pytest.approx(
        some.parts["entropy"] / some.weight, rel=0.2
    )  # not 0, which would stop a run


def test_what_tells_answers_apart_may_be_the_penalty_or_another_round(asking):
    drawn = Rollout(0, [[1], [2]], [True, False], [0.5, 0.5], {})
    assert drawn.uniform(PolicyOptions(rewards=["length"]))
    assert not drawn.uniform(PolicyOptions(rewards=["length"], truncation_penalty=0.1))
    asking["task"] |= {"algorithm": "ppo", "completions": 1}
    asking["training"]["batch_size"] = 1
    _, updates = rollouts_of(asking)
    for value in (0.25, float("nan"), 0.25):
        updates._rollouts = [Rollout(0, [[1]], [True], [value], {})]
        assert updates._nothing_told()
    updates.load_state_dict(json.loads(json.dumps(updates.state_dict())))
    updates._rollouts = [Rollout(0, [[1]], [True], [0.5], {})]
    assert not updates._nothing_told()


@pytest.mark.parametrize(
    ("rewards", "told"),
    [
        (["length"], []),
        ([{"type": "length", "weight": -2}], ["reward_length"]),
        (["json_schema"], ["reward_json_schema", "reward_json_schema.parsed", "reward_json_schema.valid"]),
    ],
)
def test_each_reward_is_told_as_it_is_without_its_weight(rewards, told):
    task = Policy(PolicyOptions(rewards=rewards), Data(train=["none"]))
    assert [n for n in task.told if n.startswith("reward_") and n != "reward_deviation"] == told
    task.judge = policy.judge_of(Scorer(task.options.rewards, folder=Path()), listener=silent)
    figures = task.figures(["say it", "7"], [Record("q", None, Question([], None, {}), "f", i) for i in range(2)])
    found = [dict(zip(task.text_scorer().names, line, strict=True)) for line in figures.tolist()]
    assert [line["words"] for line in found] == [2, 1]
    if told == ["reward_length"]:
        assert [(line["reward"], line["reward_length"]) for line in found] == [(-0.04, 0.02), (-0.02, 0.01)]
    if len(told) == 3:
        assert [[line[n] for n in told] for line in found] == [[0, 0, 0], [1, 1, 1]]


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("same", "all answers to each prompt earned the same"),
        ("broken", "the reward function failed on .* completions; first: .*no such thing"),
    ],
)
def test_rewards_that_tell_nothing_are_refused(name, message, asking):
    asking["task"] |= {"rewards": [{"type": "function", "function": f"judges:{name}"}]}
    with pytest.raises(LuthierError, match=message) as caught:
        luthier.train(asking)
    assert caught.value.fault.where.startswith("task.rewards")
    assert caught.value.fault.remedy


def parts(**other: float) -> dict[str, float]:
    return {"reward": 0.9, "kl": 0.05, "entropy": 1.0, "length": 10.0, "zero_variance": 0.5, "clipped": 0.0} | other


@pytest.mark.parametrize(
    ("options", "seen", "reason"),
    [
        ({}, {"zero_variance": 1.0}, "there is nothing more to learn"),
        ({"stop_kl": 0.04}, {}, "the KL divergence from the start is 0.050"),
        ({"stop_entropy": 1.5}, {}, "the entropy is 1.000"),
        ({"stop_kl": 0.06, "stop_entropy": 0.5}, {}, ""),
    ],
)
def test_rules_look_at_the_last_five_updates(options, seen, reason):
    chosen = PolicyOptions(rewards=["length"], **options)
    watch = Watch(chosen)
    told = [watch.observe(parts(**seen)) for _ in range(5)]
    assert not any(told[:4])
    assert reason in told[4]
    assert bool(told[4]) == bool(reason)
    again = Watch(chosen)  # resumed after the fourth
    again.recall([parts(**seen)] * 4)
    assert again.observe(parts(**seen)) == told[4]


def test_questions_that_cannot_be_asked_are_quarantined(asking):
    rows: list[dict[str, Any]] = [{"prompt": f"we found it {i}"} for i in range(30)]
    rows += [{"prompt": ""}, {"prompt": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}, {"prompt": "so " * 200}]
    Path(asking["data"]["train"]).write_text("\n".join(map(json.dumps, rows)))
    asking["data"]["max_bad_share"] = 0.5
    job, _ = rollouts_of(asking)
    reasons = " ".join(q.reason for q in job.data.prepared.quarantined)
    assert "the prompt is empty" in reasons
    assert "the prompt ends with an answer" in reasons
    assert "leave room for an answer" in reasons


def test_a_missing_column_is_named(asking):
    asking["task"]["rewards"] = [{"type": "number", "column": "right"}]
    with pytest.raises(LuthierError, match="there is no column 'right'") as caught:
        build(load_recipe(asking))
    assert caught.value.fault.where == "task.rewards.0.column"
    asking["task"] |= {"rewards": ["length"], "columns": {"system": "sistem"}}
    with pytest.raises(LuthierError, match="there is no column 'sistem'") as caught:
        build(load_recipe(asking))
    assert caught.value.fault.where == "task.columns.system"
    assert "task.columns.system" in str(caught.value.fault.remedy)


def test_a_value_head_trains_and_is_in_checkpoints(asking):
    asking["task"]["algorithm"] = "ppo"
    job, _ = rollouts_of(asking)
    assert {f"{NAME}.weight", f"{NAME}.bias"} <= set(trained(job.loaded.model))
    foretold = memory(load_recipe(asking)).footprint  # the value's head is part of what has to fit
    assert foretold.trainable == sum(p.numel() for p in job.loaded.model.parameters() if p.requires_grad)


@pytest.mark.parametrize(
    ("course", "sign"),
    [
        ({"length": [10, 40], "reward": [0.1, 0.9]}, "answers have grown from"),
        ({"length": [10, 40], "reward": [0.1, 0.9]}, "reward and length rise together"),
        ({"length": [10, 3]}, "answers have shrunk from"),
        ({"kl": [0.0, 0.3]}, "from its start (KL divergence)"),
        ({"entropy": [2.0, 0.1]}, "the answers have become one"),
    ],
)
def test_signs_of_an_outwitted_reward(course, sign):
    steps = 40
    log = [{"step": i, "parts": parts(**{n: a + (b - a) * i / (steps - 1) for n, (a, b) in course.items()})} for i in range(steps)]
    assert any(sign in found for found in signs(log))
    assert not signs([{"step": i, "parts": parts()} for i in range(steps)])


KILLS = 6
JUDGE = """
import pathlib, time

def score(prompt, completions, row):
    pathlib.Path("judging").touch()
    time.sleep(0.01)
    return [len(c) / 20 for c in completions]
"""


@pytest.mark.slow
def test_kills_in_rollouts_and_in_updates_end_in_the_same_bits(asking, tmp_path):
    """kill -9 of a real process, in turns while answers are judged and while they are learned from; counted."""
    (tmp_path / "judges.py").write_text(JUDGE)
    asking["task"] |= {"rewards": [{"type": "function", "function": "judges:score"}], "algorithm": "ppo", "ahead": 2, "iterations": 3}
    asking["training"] |= {"epochs": 30}
    asking["checkpoints"] = {"every_steps": 5}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(asking))
    whole = endings(luthier.train(path))
    judging, killed = tmp_path / "judging", {"rollouts": 0, "updates": 0}
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    run: luthier.Run | None = None
    for number in range(KILLS):
        arguments = ["train", str(path)] if run is None else ["resume", str(run.folder)]
        process = subprocess.Popen(
            [sys.executable, "-m", "luthier.cli.main", *arguments], env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        seen = lines = -1
        while process.poll() is None:
            logs = [p for p in tmp_path.glob("runs/*/log.jsonl") if p.parent.name != "case-1"]
            now = len(logs[0].read_bytes().splitlines()) if logs else 0
            if lines >= 0 and now > lines:
                seen += 1
                if number % 2 and seen > 1 and now % 6:  # in a round: what comes next is an update
                    break
                if not number % 2 and seen > 1 and now % 6 == 0:  # a round is over: what comes next is judged
                    judging.unlink(missing_ok=True)
                    while process.poll() is None and not judging.exists():
                        time.sleep(0.001)
                    break
            lines = now
            time.sleep(0.001)
        assert process.poll() is None, "it ended before it could be killed"
        process.send_signal(signal.SIGKILL)
        if process.wait() == -signal.SIGKILL:
            killed["updates" if number % 2 else "rollouts"] += 1
        run = newest_run(asking)
        assert run.facts["status"] == "running"
    assert killed == {"rollouts": KILLS // 2, "updates": KILLS // 2}
    assert run is not None
    assert endings(luthier.resume(run)) == whole
