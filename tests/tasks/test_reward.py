"""Rewards from rows to a model that judges: every loss, every bad row by name, length made visible, and plain transformers after."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch

import luthier
from luthier.data.rows import Row, Rows
from luthier.errors import DataError, Interrupted
from luthier.inference.model import Predictor
from luthier.recipe.sections import Data
from luthier.recipe.tasks.reward import RewardOptions
from luthier.runs.store import every
from luthier.serving.export import export_hf
from luthier.tasks.judged import TOGETHER, together
from luthier.tasks.reward import Reward
from luthier.workflow.events import Note
from luthier.workflow.fit import Fit
from luthier.workflow.measure import compare, evaluate
from tests import tiny
from tests.tasks.test_preference import BAD, SAME, WORDS, pairs, unpaired

SIZES = {"architecture": "llama", "vocabulary": 320, "hidden_size": 32, "layers": 2, "heads": 2, "context": 128}


def made(form: str = "pairs", **options: object) -> Reward:
    return Reward(RewardOptions(**options), Data(train=["none"]), format=form)


@pytest.mark.parametrize(("form", "values"), SAME)
def test_formats_are_those_of_preferences(form, values):
    rows = Rows(rows=[Row(values, "rows.jsonl", 1)])
    task = Reward.plan(RewardOptions(), Data(train=["none"]), {"train": rows})
    assert task.format == form
    assert [a[0]["content"] for a in task.record(rows.rows[0]).target.answers] == ["yes", "no"]


@pytest.mark.parametrize(("form", "values", "reason"), BAD)
def test_bad_rows_are_named(form, values, reason):
    assert reason in made(form).record(Row(values, "rows.jsonl", 1))


@pytest.mark.parametrize("margin", ["wide", None, -1, "nan", "inf"])
def test_margins_are_numbers_from_0(margin):
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "gap": margin}
    assert str(made(margin="gap").record(Row(row, "f", 1))).startswith("margin: ")
    assert made(margin="gap").record(Row({**row, "gap": "1.5"}, "f", 1)).target.margin == 1.5


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": "plackett_luce", "margin": "m"}, "margin is for bradley_terry"),
        ({"loss": "logistic", "center": 0.1}, "center is for bradley_terry and plackett_luce"),
        ({"loss": "plackett_luce", "label_smoothing": 0.1}, "label_smoothing is for"),
    ],
)
def test_options_that_the_loss_does_not_read_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        RewardOptions(**options)


@pytest.mark.parametrize(
    ("row", "options", "reason"),
    [
        ({"prompt": "q", "completion": "a", "label": 1}, {"loss": "bradley_terry"}, "the rows have one each"),
        ({"prompt": "q", "completion": "a", "label": 1}, {"center": 0.1}, "center is for"),
        ({"prompt": "q", "completion": "a", "label": 1}, {"margin": "label"}, "a margin is for pairs"),
        ({"prompt": "q", "completions": ["a", "b"]}, {"loss": "logistic"}, "good and bad answers"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"threshold": 1.0}, "have no ratings"),
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, {"margin": "m"}, "no column 'm'"),
    ],
)
def test_options_that_the_rows_do_not_suit_are_refused(row, options, reason):
    with pytest.raises(DataError, match=reason):
        Reward.plan(RewardOptions(**options), Data(train=["none"]), {"train": Rows(rows=[Row(row, "f", 1)])})


def figures(task: Reward, answers: list[tuple[str, str]], rewards: list[tuple[float, float]]):
    records = [task.record(Row({"prompt": "q", "chosen": a, "rejected": b}, "f", i)) for i, (a, b) in enumerate(answers)]
    return task.gold(records), np.array(rewards, dtype=np.float64)


def test_scores_show_a_reward_that_is_nothing_but_length():
    task = made()
    answers = [("long enough", "short"), ("tiny", "a longer answer"), ("a much longer answer", "no"), ("same", "size")]
    by_length = figures(task, answers, [(len(a), len(b)) for a, b in answers])
    assert task.scores(*by_length)["length_correlation"] == pytest.approx(1.0)
    right = task.scores(*figures(task, answers, [(1, 0), (1, 0), (1, 0), (2, 2)]))
    assert right["accuracy"] == (3 + 0.5) / 4
    assert right["margin"] == 3 / 4
    assert right["reward_chosen"] == 5 / 4
    assert abs(right["length_correlation"]) < 0.5
    assert right["loss"] == pytest.approx((3 * np.log1p(np.exp(-1)) + np.log(2)) / 4)
    records = [task.record(Row({"prompt": "q", "chosen": a, "rejected": b}, "f", i)) for i, (a, b) in enumerate(answers)]
    longer = task.scores(by_length[0], task.baseline("length", records, records))
    assert longer["accuracy"] == (2 + 0.5) / 4
    task.fit(records[:1])
    assert task.noticed() == ["in 100% of the training pairs the better answer is the longer one: watch length_correlation"]
    task.fit(records[3:])
    assert task.noticed() == []


def test_margin_and_center_are_in_the_loss():
    row = {"prompt": "q", "chosen": "a", "rejected": "b", "gap": 2}
    task = made(margin="gap", center=0.1, label_smoothing=0.2)
    gold = task.gold([task.record(Row(row, "f", 1))])
    h = 3.0 - 1.0 - 2.0 + 0.5
    expected = 0.8 * np.log1p(np.exp(-h)) + 0.2 * np.log1p(np.exp(h)) + 0.1 * (3.5 + 1.0) ** 2
    assert task.row_loss(gold, np.array([[3.5, 1.0]])).tolist() == pytest.approx([expected])


def test_answers_to_one_prompt_come_in_one_tree():
    task = made()
    rows = [{"prompt": f"q {i % 2}", "completion": f"a {i}"} for i in range(2 * TOGETHER + 2)]
    rows += [{"prompt": "q 0", "chosen": "a", "rejected": "b"}, {"prompt": "q 0", "completions": ["a", "b"]}]
    trees = together([task.texts(r) for r in rows])
    assert sorted(map(len, trees)) == [1, 1, 1, 1, TOGETHER, TOGETHER]
    assert sorted(i for t in trees for i in t) == list(range(len(rows)))


@pytest.fixture
def learn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))

    def run(rows: list[dict], *, model: dict | None = None, method: str = "full", training: dict | None = None, **task: object):
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        recipe = {
            "data": {"train": str(tmp_path / "rows.jsonl"), "validation_share": 0.15, "test_share": 0.2},
            "task": {"type": "reward", **task},
            "model": model or {"from_scratch": SIZES},
            "method": method,
            "training": {"epochs": 3, "batch_size": 8, "learning_rate": 2e-3, "threads": 1, **(training or {})},
            "evaluation": {"bootstrap": 100},
            "output": {"folder": "runs", "name": "case"},
        }
        notes: list[str] = []
        found = luthier.train(recipe, listener=lambda e: notes.append(e.text) if isinstance(e, Note) else None)
        return found, notes

    return run


def ranked(count: int) -> list[dict]:
    """The more `great` the better, in words of one length."""
    draw, rows = random.Random(1), []
    for i in range(count):
        bodies = [" ".join(draw.choices(WORDS, k=2)) for _ in range(3)]
        best_first = [f"{b} {w}" for b, w in zip(bodies, ("great great", "great awful", "awful awful"), strict=True)]
        rows.append({"prompt": f"say {i}", "completions": best_first})
    return rows


@pytest.mark.parametrize(
    ("rows", "options", "loss"),
    [
        (pairs(120), {"center": 0.01, "label_smoothing": 0.05}, "bradley_terry"), (ranked(90), {}, "plackett_luce"),
        (ranked(90), {"loss": "bradley_terry"}, None), (unpaired(160), {}, "logistic"),
    ],
    ids=["pairs", "lists", "pairs of lists", "good and bad"],
)  # fmt: skip
def test_every_loss_learns_what_people_like(rows, options, loss, learn):
    run, notes = learn(rows, training={"epochs": 5 if loss == "logistic" else 3}, **options)
    found = run.scores["methods"]
    assert found["model"]["accuracy"]["value"] > 0.9
    assert found["model"]["margin"]["value"] > 1
    assert any("the better answer is the longer one" in n for n in notes) == ("chosen" in rows[0])  # lovely is longer than awful
    assert (found["length"]["accuracy"]["value"] == 1.0) == ("chosen" in rows[0])
    assert run.facts["inferred"].get("task.loss") == loss
    log = run.lines("log.jsonl")
    assert log[-1]["parts"]["margin"] > log[0]["parts"]["margin"]
    assert "the longer answer" in run.report.read_text()


def test_bad_rows_are_counted_and_what_tells_nothing_apart_is_refused(learn):
    rows = pairs(80)
    rows[3]["rejected"], rows[5]["chosen"] = rows[3]["chosen"], ""
    run, _ = learn(rows, training={"max_steps": 1})
    assert run.facts["data"]["summary"]["quarantine_reasons"] == {"chosen equals rejected": 1, "chosen is empty": 1}
    with pytest.raises(DataError, match="answers are good: there is nothing to tell apart"):
        learn([{**r, "label": True} for r in unpaired(40)])
    with pytest.raises(DataError, match="none is preferred"):
        learn([{"prompt": f"q {i}", "completions": ["a", "b"], "ratings": [2, 2]} for i in range(40)])
    long = [{"prompt": "the " * 200 + str(i), "chosen": "warm", "rejected": "cold"} for i in range(40)]
    with pytest.raises(DataError, match="its answers lie beyond the 128 tokens that fit"):
        learn(long)


ASKED = [
    {"prompt": "say 1", "completion": "film lovely"},
    {"prompt": [{"role": "user", "content": "say 2"}], "completion": "it was awful today"},
    {"prompt": "say 1", "completion": "really awful"},
    {"prompt": "say 1", "completion": ""},
    {"messages": [{"role": "user", "content": "say 1"}, {"role": "assistant", "content": "film lovely"}]},
]


def plain_rewards(model, tokenizer, *, special: bool = False) -> list[float]:
    talks = [r.get("messages") or [*(r["prompt"] if isinstance(r["prompt"], list) else [{"role": "user", "content": r["prompt"]}]), {"role": "assistant", "content": r["completion"]}] for r in ASKED]  # fmt: skip
    texts = [tokenizer.apply_chat_template(t, tokenize=False) for t in talks]
    with torch.no_grad():
        return [float(model(**tokenizer(t, add_special_tokens=special, return_tensors="pt")).logits[0, 0]) for t in texts]


def test_a_saved_model_judges_with_and_without_luthier(learn, tmp_path):
    from peft import PeftModel
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    base, _ = learn(pairs(60), training={"max_steps": 4})
    run, _ = learn(pairs(60), model={"name": str(base.model)}, method="lora", training={"max_steps": 6})
    model, below = (AutoModelForSequenceClassification.from_pretrained(base.model) for _ in range(2))
    assert model.config.num_labels == 1
    for folder, plain in ((base.model, model), (run.model, PeftModel.from_pretrained(below, str(run.model)))):
        predictor = Predictor(folder)
        found = [a["reward"] for a in predictor.predict(ASKED)]
        assert found == pytest.approx([predictor.predict([r])[0]["reward"] for r in ASKED], abs=1e-5)
        assert found == pytest.approx(plain_rewards(plain.eval(), AutoTokenizer.from_pretrained(folder)), abs=1e-5)
    one, other = found[0], found[2]
    asked = ["film lovely", "really awful"]
    pair, several, text = predictor.predict(
        [
            {"prompt": "say 1", "chosen": asked[0], "rejected": asked[1]}, {"prompt": "say 1", "completions": asked},
            "\n\nHuman: say 1\n\nAssistant: film lovely",
        ]
    )  # fmt: skip
    assert pair == {"chosen": pytest.approx(one, abs=1e-5), "rejected": pytest.approx(other, abs=1e-5), "margin": pytest.approx(one - other, abs=1e-5), "better": "chosen" if one > other else "rejected"}  # fmt: skip
    assert several == {"rewards": pytest.approx([one, other], abs=1e-5), "best": int(other > one)}
    assert text == {"reward": pytest.approx(one, abs=1e-5)}
    for row, reason in (
        ({"prompt": "say"}, "holds no answer"), ("only words", "has no prompt"), ("{not JSON", "begins like a row in JSON"),
        ({"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen equals rejected"), ({"prompt": "q", "completion": "so <|end|> so"}, "control token"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=reason):
            predictor.predict([row])
        assert reason in str(predictor.refusal(row))
    assert export_hf(run, tmp_path / "exported") < 1e-4
    scores, _ = evaluate(run)
    assert scores["accuracy"]["value"] == run.scores["methods"]["model"]["accuracy"]["value"]
    assert compare(base, run)[0] is not None


def test_an_encoder_judges_a_conversation_as_one_text(learn, tmp_path):
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tiny.save("bert", tmp_path / "bert")
    tokenizer = tiny.tokenizer("bert")
    tokenizer.eos_token = None
    tokenizer.save_pretrained(tmp_path / "bert")
    run, notes = learn(pairs(100), model={"name": str(tmp_path / "bert"), "dropout": 0.0})
    assert any("computed anew for each of them" in n for n in notes)
    assert run.scores["methods"]["model"]["accuracy"]["value"] > 0.9
    plain = AutoModelForSequenceClassification.from_pretrained(run.model).eval()
    expected = plain_rewards(plain, AutoTokenizer.from_pretrained(run.model), special=True)
    assert [a["reward"] for a in luthier.predict(run, ASKED)] == pytest.approx(expected, abs=1e-5)


def test_a_run_that_was_stopped_ends_alike_and_padded_batches_give_the_same(learn, tmp_path, monkeypatch):
    whole, _ = learn(ranked(60), training={"max_steps": 5})
    padded, notes = learn(ranked(60), training={"max_steps": 5, "attention": "padded"})
    assert any("batches are padded" in n for n in notes)
    for a, b in zip(whole.lines("log.jsonl"), padded.lines("log.jsonl"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4)
    real = Fit._note

    def stop(fit: Fit, report, log) -> None:
        real(fit, report, log)
        if report.step == 3:
            fit._save(log)
            raise Interrupted("as asked")

    monkeypatch.setattr(Fit, "_note", stop)
    with pytest.raises(Interrupted):
        learn(ranked(60), training={"max_steps": 5})
    monkeypatch.setattr(Fit, "_note", real)
    broken = next(r for r in every(tmp_path / "runs") if r.facts["status"] == "interrupted")
    assert luthier.resume(broken).facts["weights_digest"] == whole.facts["weights_digest"]
