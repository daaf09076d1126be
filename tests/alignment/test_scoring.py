"""Rewards together: sums, parts, and what fails."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import ClassVar

import numpy as np
import pytest

from luthier.alignment.limit import Overrun, within
from luthier.alignment.rewards.reward import Asked
from luthier.alignment.scoring import Scorer
from luthier.errors import RewardError
from tests.alignment.world import RULE, options, score

OWN = {"type": "function", "function": "tests.alignment.world:rule"}


@pytest.fixture
def rule():
    """Says what the user's function does."""
    RULE.clear()
    return lambda work: RULE.append(lambda prompt, completions, row: work(completions))


def asked(*groups: list[str], **row: object) -> list[Asked]:
    return [Asked([{"role": "user", "content": "say it"}], g, row) for g in groups]


def test_the_sum_is_weighted_and_the_parts_are_raw(tmp_path):
    sections = options(
        {"type": "length", "per": 1.0, "weight": -0.5},
        {"type": "exact", "weight": 3.0},
        {"type": "regex", "pattern": "a", "weight": 0, "name": "seen"},
    )
    with Scorer(sections, folder=tmp_path) as scorer:
        found = scorer.score(asked(["a", "a b"], ["c", "c c c"], answer="a"))
        assert scorer.names == ("length", "exact", "seen") == tuple(found.parts)
    assert found.parts["length"].tolist() == [[1, 2], [1, 3]]
    assert found.parts["exact"].tolist() == [[1, 0], [0, 0]]
    assert found.total.tolist() == [[2.5, -1], [-0.5, -1.5]]
    assert found.total.dtype == np.float64
    assert not found.faults


def test_nothing_asked_is_nothing_scored(tmp_path):
    with Scorer(options("length", "json_schema"), folder=tmp_path) as scorer:
        found = scorer.score([])
        assert found.total.shape == (0, 0)
        assert set(scorer.names) == set(found.parts)


@pytest.mark.parametrize(
    ("work", "reason"),
    [
        (lambda texts: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda texts: sys.exit(3), "SystemExit: 3"),
        (lambda texts: [math.nan] * len(texts), "gave nan"),
        (lambda texts: [math.inf] * len(texts), "gave inf"),
        (lambda texts: [1.0], "gave 1 scores for 2 completions"),
        (lambda texts: None, "gave no list of scores"),
        (lambda texts: [None] * len(texts), "gave no score"),
        (lambda texts: ["good"] * len(texts), "gave a str that is no number"),
        (lambda texts: time.sleep(30), "took longer than 0.1 s"),
        (lambda texts: list(iter(lambda: 0, 1)), "took longer than 0.1 s"),
    ],
)
def test_what_fails_is_counted_and_has_no_score(work, reason, rule, tmp_path):
    rule(lambda texts: work(texts) if texts[0] == "bad" else [1.0] * len(texts))
    with Scorer(options("length", {**OWN, "timeout": 0.1}), folder=tmp_path) as scorer:
        found = scorer.score(asked(["bad", "x"], ["a", "b"], ["c", "d"]))
    assert dict(found.faults) == {f"function: {reason}": 2}
    for values in (found.parts["function"], found.total):
        assert np.isnan(values).tolist() == [[True, True], [False, False], [False, False]]
    assert np.isfinite(found.parts["length"]).all()


def test_one_score_may_fail_alone(rule):
    rule(lambda texts: [1.0, None, math.nan])
    found = score({**OWN, "max_fault_share": 0.9}, ["a", "b", "c"])
    assert dict(found.faults) == {"function: gave no score": 1, "function: gave nan": 1}
    assert np.isnan(found.total[0]).tolist() == [False, True, True]


def test_a_reward_that_never_works_stops_training(rule, tmp_path):
    rule(lambda texts: 1 / 0)
    with Scorer(options("length", {**OWN, "name": "mine", "max_fault_share": 1.0}), folder=tmp_path) as scorer:
        with pytest.raises(RewardError) as caught:
            scorer.score(asked(["a", "b"]))
        assert str(caught.value) == (
            "task.rewards.1: the reward mine failed on 2 of 2 completions; first: ZeroDivisionError: division by zero\n"
            "  → mend the reward, or take it out"
        )


def test_later_it_may_fail_as_often_as_the_recipe_says(rule, tmp_path):
    rule(lambda texts: 1 / 0 if texts[0] == "bad" else [1.0] * len(texts))
    most, half = {**OWN, "max_fault_share": 1.0}, {**OWN, "max_fault_share": 0.5}
    with Scorer(options(most), folder=tmp_path) as scorer:
        scorer.score(asked(["good"]))
        assert scorer.score(asked(["bad"])).faults.total() == 1
    with Scorer(options(half), folder=tmp_path) as scorer:
        assert scorer.score(asked(["good"], ["bad"])).faults.total() == 1
        with pytest.raises(RewardError, match="raise its max_fault_share"):
            scorer.score(asked(["good"], ["bad"], ["bad"]))


def test_a_missing_column_is_named_with_those_there_are():
    with pytest.raises(RewardError, match=r"the row has no column 'answer'\n  → name the column that holds it; there are: 'gold'"):
        score("exact", ["a"], {"gold": "a"})
    with pytest.raises(RewardError, match="there is no number in 'answer': 'none'"):
        score("number", ["1"], {"answer": "none"})


def test_a_function_can_change_nothing():
    def greedy(prompt, completions, row):
        prompt[0]["content"] = row["answer"] = completions[0] = "changed"
        row["words"].append("changed")
        return [float(completions[0] == "changed")]

    RULE.append(greedy)
    group = Asked([{"role": "user", "content": "say it"}], ["a"], {"answer": "b", "words": ["x"]})
    with Scorer(options(OWN, "exact"), folder=None) as scorer:
        assert scorer.score([group]).total.tolist() == [[1.0]]
    assert group == Asked([{"role": "user", "content": "say it"}], ["a"], {"answer": "b", "words": ["x"]})


def test_an_expression_that_never_ends_is_stopped():
    """Backtracking grows by two a letter here; the interpreter is stopped inside the match."""
    section = {"type": "regex", "pattern": "(a+)+$", "how": "full", "timeout": 0.2}
    with pytest.raises(RewardError, match=r"took longer than 0\.2 s"):
        score(section, ["a" * 60 + "b"])


def test_groups_of_different_sizes_are_a_mistake_of_the_caller(tmp_path):
    with Scorer(options("length"), folder=tmp_path) as scorer, pytest.raises(ValueError, match="different numbers"):
        scorer.score(asked(["a"], ["a", "b"]))


def test_time_is_kept_in_other_threads_too():
    from concurrent.futures import ThreadPoolExecutor

    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(within, 5.0, lambda: 3).result() == 3
        with pytest.raises(Overrun):
            pool.submit(within, 0.1, lambda: [time.sleep(0.01) for _ in range(10**6)]).result()
        with pytest.raises(ZeroDivisionError):
            pool.submit(within, 5.0, lambda: 1 / 0).result()


def test_work_that_swallows_the_alarm_is_stopped_again():
    import signal

    def stubborn():
        for _ in range(3):
            try:
                time.sleep(30)
            except BaseException:
                continue
        time.sleep(30)

    before = signal.getsignal(signal.SIGALRM)
    with pytest.raises(Overrun):
        within(0.05, stubborn)
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL)[0] == 0


class Reader:
    """Stands in for a reward model: likes long texts, cannot read empty ones."""

    batches: ClassVar[list[int]] = []

    def __init__(self, folder, *, threads):
        assert threads >= 1

    def refusals(self, rows):
        return ["is empty" if not r["completion"] else None for r in rows]

    def predict(self, rows):
        Reader.batches.append(len(rows))
        assert rows[0]["prompt"] == [{"role": "user", "content": "say it"}]
        return [{"reward": len(r["completion"]) / 10} for r in rows]


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs: a reward model and a classifier."""
    from luthier.inference import model

    for name, task in (("judge-1", "reward"), ("moods-1", "classification")):
        (tmp_path / "runs" / name / "model").mkdir(parents=True)
        card = dict.fromkeys(["state", "max_length", "text", "text_pair", "head"]) | {"task": {"type": task}}
        (tmp_path / "runs" / name / "model" / "luthier.json").write_text(json.dumps(card))
    monkeypatch.setattr(model, "Predictor", Reader)
    Reader.batches.clear()
    return tmp_path


def test_a_reward_model_scores_everything_at_once(runs):
    for name in ("judge-1", "runs/judge-1", str(runs / "runs" / "judge-1" / "model")):
        with Scorer(options({"type": "model", "run": name}), folder=runs) as scorer:
            found = scorer.score(asked(["aa", ""], ["aaaa", "a"]))
        assert dict(found.faults) == {"model: is empty": 1}
        np.testing.assert_array_equal(found.total, [[0.2, np.nan], [0.4, 0.1]])
    assert Reader.batches == [3, 3, 3]


def test_a_run_of_another_task_is_refused_by_name(runs):
    with pytest.raises(RewardError, match=r"task.rewards.0.run: moods-1 learned the task classification, not reward"):
        score({"type": "model", "run": "moods-1"}, ["a"], folder=runs)


def test_a_reward_model_that_takes_too_long_is_a_fault(runs, monkeypatch):
    monkeypatch.setattr(Reader, "predict", lambda self, rows: time.sleep(30))
    with pytest.raises(RewardError, match=r"took longer than 0\.1 s"):
        score({"type": "model", "run": "judge-1", "timeout": 0.1}, ["a"], folder=runs)


def test_what_was_made_is_closed_when_the_next_cannot_be(tmp_path, monkeypatch):
    from luthier.alignment.rewards import http

    closed = []
    monkeypatch.setattr(http.HttpReward, "close", lambda self: closed.append(self))
    with pytest.raises(RewardError):
        Scorer(options({"type": "http", "url": "http://127.0.0.1:9/"}, {"type": "model", "run": "gone"}), folder=tmp_path)
    assert len(closed) == 1
