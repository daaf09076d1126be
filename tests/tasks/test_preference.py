"""Preferences from rows to a model: every format, every bad row by name, every loss, and what the reference is."""

from __future__ import annotations

import json
import math
import random

import numpy as np
import pytest
import torch

import luthier
from luthier.data.rows import Row, Rows
from luthier.data.tokens import UNGRADED
from luthier.errors import DataError, Interrupted, RecipeError
from luthier.recipe.sections import Data
from luthier.recipe.tasks.preference import PreferenceOptions
from luthier.recipe.tasks.reward import RewardOptions
from luthier.runs.store import every
from luthier.tasks.judging import Figures
from luthier.tasks.preference import Preference, elsewhere
from luthier.tasks.reward import Reward
from luthier.workflow import reference
from luthier.workflow.events import Note
from luthier.workflow.fit import Fit
from tests import tiny
from tests.tasks import talk
from tests.tasks.test_preference_parity import TEMPLATE

ASKED = [{"role": "user", "content": "Hello there"}]


def said(text: str) -> list[dict]:
    return [{"role": "assistant", "content": text}]


def made(form: str = "pairs", **options: object) -> Preference:
    return Preference(PreferenceOptions(**options), Data(train=["none"]), format=form)


def record(values: dict, form: str = "pairs", **options: object):
    return made(form, **options).record(Row(values, "rows.jsonl", 1))


TURNS = "\n\nHuman: Hello there\n\nAssistant: "
SAME = [
    ("pairs", {"prompt": "Hello there", "chosen": "yes", "rejected": "no"}),
    ("pairs", {"prompt": ASKED, "chosen": said("yes"), "rejected": said("no")}),
    ("pairs", {"prompt": json.dumps(ASKED), "chosen": json.dumps(said("yes")), "rejected": json.dumps(said("no"))}),
    ("pairs", {"prompt": "Hello there", "chosen": [*ASKED, *said("yes")], "rejected": [*ASKED, *said("no")]}),
    ("pairs", {"chosen": [*ASKED, *said("yes")], "rejected": [*ASKED, *said("no")]}),
    ("pairs", {"chosen": f"{TURNS}yes", "rejected": f"{TURNS}no"}),
    ("pairs", {"chosen": f"{TURNS}yes".strip(), "rejected": f"{TURNS}no".strip()}),
    ("pairs", {"prompt": TURNS.strip(), "chosen": "yes", "rejected": "no"}),
    ("pairs", {"prompt": [{"from": "human", "value": "Hello there"}], "chosen": {"from": "gpt", "value": "yes"}, "rejected": {"from": "gpt", "value": "no"}}),
    ("openai", {"input": {"messages": ASKED}, "preferred_output": said("yes"), "non_preferred_output": said("no")}),
    ("ranked", {"prompt": "Hello there", "completions": ["yes", "no"]}),
]  # fmt: skip


@pytest.mark.parametrize(("form", "values"), SAME)
def test_formats_are_recognised_and_give_the_same(form, values):
    rows = Rows(rows=[Row(values, "rows.jsonl", 1)])
    assert Preference.plan(PreferenceOptions(), Data(train=["none"]), {"train": rows}).format == form
    found = record(values, form).target
    assert (found.prompt, found.answers, found.ratings) == (ASKED, (said("yes"), said("no")), (1.0, 0.0))


@pytest.mark.parametrize(
    ("values", "good", "threshold"),
    [
        ({"prompt": "Hello there", "completion": "yes", "label": True}, 1.0, None),
        ({"prompt": ASKED, "completion": said("yes"), "label": "thumbs_down"}, 0.0, None),
        ({"completion": [*ASKED, *said("yes")], "label": 1}, 1.0, None),
        ({"prompt": "Hello there", "completion": "yes", "label": "3.5"}, 0.0, 4.0),
        ({"prompt": "Hello there", "completion": "yes", "label": 4}, 1.0, 4.0),
    ],
)
def test_single_answers_are_good_or_bad(values, good, threshold):
    found = record(values, "unpaired", threshold=threshold).target
    assert (found.prompt, found.answers, found.ratings) == (ASKED, (said("yes"),), (good,))


def test_ranked_and_rated_lists():
    assert record({"prompt": "Hello there", "completions": ["a", "b", "c"]}, "ranked").target.ratings == (2.0, 1.0, 0.0)
    rated = {"prompt": "Hello there", "completions": ["a", "b", "c"], "ratings": [1, 5, 1.5]}
    assert record(rated, "ranked").target.ratings == (1.0, 5.0, 1.5)
    assert record(rated, "ranked", threshold=2).target.ratings == (0.0, 1.0, 0.0)
    assert record({"prompt": "q", "completions": ["a", "b"]}, "ranked", threshold=2) == "has no ratings, which task.threshold is for"
    task = made("ranked")
    assert task.gold([task.record(Row(rated, "f", 1))])[0, :3].tolist() == [0.0, 2.0, 1.0]


def test_a_text_that_begins_with_a_name_alone_is_a_text():
    found = record({"prompt": "Human: a word", "chosen": "Assistant: a helper", "rejected": "b"}, "pairs").target
    assert (found.prompt[0]["content"], found.answers[0][0]["content"]) == ("Human: a word", "Assistant: a helper")


def test_answers_in_json_are_texts_and_messages_in_json_are_messages():
    found = record({"prompt": "Give JSON", "chosen": '{"a": 1}', "rejected": "[2, 3]"}, "pairs").target
    assert [a[0]["content"] for a in found.answers] == ['{"a": 1}', "[2, 3]"]
    spoken = record({"prompt": json.dumps(ASKED), "chosen": json.dumps(said("a")), "rejected": json.dumps(said("b"))}, "pairs").target
    assert (spoken.prompt, spoken.answers) == (ASKED, (said("a"), said("b")))
    openai = {"input": json.dumps({"messages": ASKED}), "preferred_output": said("a"), "non_preferred_output": said("b")}
    assert record(openai, "openai").target.prompt == ASKED


BAD = [
    ("pairs", {"prompt": "q", "chosen": "a", "rejected": "a"}, "chosen equals rejected"),
    ("pairs", {"chosen": [*ASKED, *said("a")], "rejected": [*ASKED, *said("a")]}, "chosen equals rejected"),
    ("pairs", {"prompt": "q", "chosen": " ", "rejected": "a"}, "chosen is empty"),
    ("pairs", {"prompt": "q", "chosen": "a", "rejected": None}, "rejected is empty"),
    ("pairs", {"prompt": "q", "chosen": "a", "rejected": []}, "rejected is empty"),
    ("pairs", {"chosen": [*ASKED, *said("a")], "rejected": [*talk.messages("Other"), *said("b")]}, "prompts differ"),
    ("pairs", {"prompt": "Other", "chosen": [*ASKED, *said("a")], "rejected": [*ASKED, *said("b")]}, "prompts differ"),
    ("pairs", {"chosen": [*ASKED, *said("a")], "rejected": ASKED}, "one answer is the beginning of another"),
    ("pairs", {"chosen": "a", "rejected": "b"}, "has no prompt"),
    ("pairs", {"prompt": "q", "chosen": [*said("a"), *ASKED], "rejected": "b"}, "chosen: does not end with an answer"),
    ("openai", {"input": "q", "preferred_output": said("a"), "non_preferred_output": said("b")}, "input: is not an object"),
    ("unpaired", {"prompt": "q", "completion": "a", "label": "so so"}, "neither good nor bad"),
    ("unpaired", {"prompt": "q", "completion": "a", "label": None}, "has no label"),
    ("ranked", {"prompt": "q", "completions": ["a"]}, "not a list of two or more"),
    ("ranked", {"prompt": "q", "completions": ["a", "b"], "ratings": [1]}, "not a list of 2 numbers"),
    ("ranked", {"prompt": "q", "completions": ["a", "b"], "ratings": [1, "nan"]}, "finite numbers"),
    ("ranked", {"prompt": "q", "completions": ["a", "b"], "ratings": [1, 10**400]}, "finite numbers"),
    ("ranked", {"prompt": "q", "completions": ["a", "b"], "ratings": [2, 2]}, "rated alike"),
    ("ranked", {"prompt": "q", "completions": ["a", "a"]}, "completion 1 equals completion 2"),
]  # fmt: skip


@pytest.mark.parametrize(("form", "values", "reason"), BAD)
def test_bad_rows_are_named(form, values, reason):
    assert reason in record(values, form)


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"loss": "ipo", "label_smoothing": 0.1}, "label_smoothing is for"),
        ({"loss": "sigmoid", "gamma": 0.1}, "gamma is for simpo"),
        ({"loss": "orpo", "reference": "recomputed"}, "reference is for"),
        ({"loss": "robust"}, "robust needs label_smoothing"),
    ],
)
def test_options_that_the_loss_does_not_read_are_refused(options, reason):
    with pytest.raises(ValueError, match=reason):
        PreferenceOptions(**options)


def test_a_tree_shares_what_comes_before_the_answers_and_changes_no_token():
    known = talk.tokenizer(TEMPLATE)
    task = made("ranked")
    rows = [
        {"prompt": [*ASKED, *said("And"), *ASKED], "completions": ["words?", "It calls", "words too"]},
        {"prompt": "Hello", "completions": [said("yes"), said("no")]},
    ]
    records = [task.record(Row(r, "f", i)) for i, r in enumerate(rows)]
    for one, example in zip(records, task.encode(records, known, config=None, max_length=400).tokens.examples(), strict=True):
        branch, ids, labels = example["branch"], example["input_ids"], example["labels"]
        stem = ids[branch == 0]
        for number, answer in enumerate(one.target.answers, 1):
            whole = known.apply_chat_template([*one.target.prompt, *answer], tokenize=False)
            expected = known(whole, add_special_tokens=False)["input_ids"]
            assert [*stem, *ids[branch == number]] == expected[:-1]
            learned = labels[branch == number]
            assert known.decode(learned[learned != UNGRADED]) == answer[0]["content"] + "<|im_end|>"
        assert (labels[branch == 0] == UNGRADED).all()
        assert (
            len(stem)
            == len(known(known.apply_chat_template(one.target.prompt, tokenize=False, add_generation_prompt=True))["input_ids"]) - 1
        )


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"ratings": "raitings"}, "no column 'raitings'(.|\n)*did you mean 'ratings'"),
        ({"system": "sistem"}, "no column 'sistem'"),
        ({"chosen": "completions"}, "columns.chosen is not read by the format ranked"),
    ],
)
@pytest.mark.parametrize("task", [Preference, Reward])
def test_columns_that_are_not_there_or_not_read_are_refused(columns, reason, task):
    rows = Rows([Row({"prompt": "q", "completions": ["a", "b"], "ratings": [1, 2]}, "f", 1)], [], [])
    options = {Preference: PreferenceOptions, Reward: RewardOptions}[task](columns=columns)
    if task is Reward and "chosen" in columns:  # read where pairs are judged
        assert task.plan(options, Data(train=["none"]), {"train": rows}).format == "ranked"
        return
    with pytest.raises(DataError, match=reason):
        task.plan(options, Data(train=["none"]), {"train": rows})


def test_in_kto_the_other_answer_is_one_to_another_prompt_and_no_row_suffers_for_another():
    known = talk.tokenizer(TEMPLATE)
    asked = ["one", "two", "two", "two", "three", "one"]
    task = made("unpaired", loss="kto")
    rows = [{"prompt": q, "completion": f"said {i}", "label": i % 2} for i, q in enumerate(asked)]
    rows[4]["completion"] = "said <|im_end|>"
    records = [task.record(Row(r, "f", i)) for i, r in enumerate(rows)]
    found = task.encode(records, known, config=None, max_length=400)
    assert list(found.rejected) == [4]
    others = []
    for example in found.tokens.examples():
        labels = example["labels"][example["branch"] == -1]
        others.append(known.decode(labels[labels != UNGRADED]).removesuffix("<|im_end|>"))
    assert others == ["said 3", "said 0", "said 0", "said 0", "said 3"]
    assert found.counts["rows"] == 5  # not the answers, of which the finding on cut ones speaks
    assert elsewhere(records[1:4]) == [2, 0, 1]
    alone = task.encode(records[:1], known, config=None, max_length=400).tokens.examples()[0]
    assert np.array_equal(alone["input_ids"][alone["branch"] == 1], alone["input_ids"][alone["branch"] == -1])


def figures(sums: list[list[float]], ranks: list[list[int]], reference: float = 0.0) -> Figures:
    values = torch.tensor(sums, dtype=torch.float64)
    return Figures(torch.tensor(ranks), values, torch.full_like(values, 2.0), torch.full_like(values, reference))


def test_every_pair_of_a_list_counts_and_a_row_weighs_one():
    task = made("ranked", loss="sigmoid", beta=0.5)
    found = task.judge(figures([[-1.0, -2.0, -4.0], [-3.0, -1.0, 0.0]], [[2, 1, 0], [1, 0, -1]]))

    def loss(h: float) -> float:
        return math.log1p(math.exp(-0.5 * h))

    assert found.weight.tolist() == [1.0, 1.0]
    assert found.loss.tolist() == pytest.approx([(loss(1) + loss(3) + loss(2)) / 3, loss(-2)])
    assert found.parts["accuracy"].tolist() == [1.0, 0.0]
    assert found.parts["margin"].tolist() == pytest.approx([0.5 * (1 + 3 + 2) / 3, -1.0])
    anchored = made("ranked", loss="sigmoid", beta=0.5, sft=0.5).judge(figures([[-1.0, -2.0]], [[1, 0]]))
    assert anchored.loss.tolist() == pytest.approx([loss(1) + 0.5 * 0.5])


def test_scores_tell_without_a_reference_what_they_can():
    task = made(loss="sigmoid")
    gold = task.gold([task.record(Row({"prompt": "q", "chosen": "a", "rejected": "b"}, "f", i)) for i in range(4)])
    outputs = torch.tensor([[-1.0, -2.0, 2, 2], [-1.0, -3.0, 1, 3], [-2.0, -1.0, 1, 1], [-1.0, -1.0, 1, 1]]).numpy()
    assert task.scores(gold, outputs) == pytest.approx({"loss_chosen": 1.0, "likelier": (1 + 0.5 + 0 + 0.5) / 4})
    gold[:, 2:] = [[-1, -1], [-1, -1], [-1, -1], [-1, -1]]
    found = task.scores(gold, outputs)
    assert found["accuracy"] == (1 + 1 + 0 + 0.5) / 4
    assert found["margin"] == pytest.approx(0.1 * (1 + 2 - 1 + 0) / 4)


WORDS = [w for w in tiny.WORDS if len(w) > 3]


def pairs(count: int, *, seed: int = 0) -> list[dict]:
    """People like `lovely`, whatever is asked."""
    draw = random.Random(seed)
    rows = []
    for i in range(count):
        asked = " ".join(draw.choices(WORDS, k=draw.randint(3, 9)))
        body = " ".join(draw.choices(WORDS, k=draw.randint(1, 5)))
        rows.append({"prompt": f"{asked} {i}", "chosen": f"{body} lovely", "rejected": f"{body} awful"})
    return rows


def unpaired(count: int) -> list[dict]:
    return [
        {"prompt": r["prompt"], "completion": r[("chosen", "rejected")[i % 2]], "label": i % 2 == 0} for i, r in enumerate(pairs(count))
    ]


@pytest.fixture
def learn(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))

    def run(
        rows: list[dict],
        *,
        notes: list[str] | None = None,
        model: dict | None = None,
        method: str = "full",
        training: dict | None = None,
        **task: object,
    ) -> luthier.Run:
        (tmp_path / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
        sizes = {"architecture": "llama", "vocabulary": 320, "hidden_size": 32, "layers": 2, "heads": 2, "context": 128}
        recipe = {
            "data": {"train": str(tmp_path / "rows.jsonl"), "validation_share": 0.15, "test_share": 0.2},
            "task": {"type": "preference", "max_new_tokens": 4, **task},
            "model": model or {"from_scratch": sizes},
            "method": method,
            "training": {"epochs": 3, "batch_size": 8, "learning_rate": 2e-3, "threads": 1, **(training or {})},
            "evaluation": {"bootstrap": 100, "written": 2},
            "output": {"folder": "runs", "name": "case"},
        }
        return luthier.train(recipe, listener=lambda e: notes.append(e.text) if notes is not None and isinstance(e, Note) else None)

    return run


LOSSES = [
    {"loss": "sigmoid"}, {"loss": "sigmoid", "normalize": True, "sft": 0.2}, {"loss": "robust", "label_smoothing": 0.1}, {"loss": "ipo"},
    {"loss": "hinge"}, {"loss": "orpo"}, {"loss": "simpo", "beta": 2.0}, {"loss": "cpo", "sft": 1.0}, {"loss": "kto"},
]  # fmt: skip


@pytest.mark.parametrize("options", LOSSES, ids=str)
def test_every_loss_learns_what_people_like(options, learn):
    run = learn(pairs(120), **options)
    found = run.scores["methods"]["model"]
    assert found["accuracy"]["value"] > 0.9
    assert found["margin"]["value"] > 0
    log = run.lines("log.jsonl")
    assert log[-1]["parts"]["margin"] > log[0]["parts"]["margin"]
    if options["loss"] in ("sigmoid", "robust", "ipo", "hinge"):
        assert log[0]["parts"]["margin"] == pytest.approx(0, abs=1e-4)
        assert {"kl", "accuracy", "reward_chosen", "reward_rejected", "logp_chosen", "logp_rejected"} <= log[0]["parts"].keys()


def test_single_answers_learn_and_one_class_alone_is_refused(learn):
    run = learn(unpaired(160))
    assert run.facts["inferred"]["task.loss"] == "kto"
    assert run.scores["methods"]["model"]["accuracy"]["value"] > 0.9
    with pytest.raises(DataError, match="answers are good: there is nothing to tell apart"):
        learn([{**r, "label": True} for r in unpaired(40)])
    with pytest.raises(DataError, match="the rows have one each"):
        learn(unpaired(40), loss="sigmoid")
    with pytest.raises((DataError, RecipeError), match="from which rating"):
        learn([{"prompt": f"q {i}", "completions": ["a", "b"]} for i in range(40)], loss="kto")


def test_bad_rows_are_counted_and_quarantined(learn):
    rows = pairs(120)
    rows[3]["rejected"] = rows[3]["chosen"]
    rows[5]["chosen"] = ""
    run = learn(rows, training={"max_steps": 1})
    summary = run.facts["data"]["summary"]
    assert summary["quarantine_reasons"] == {"chosen equals rejected": 1, "chosen is empty": 1}
    assert sum(summary[p] for p in ("train", "validation", "test")) == 118


@pytest.mark.parametrize("attention", ["ragged", "padded"])
def test_a_recomputed_reference_and_padded_batches_give_the_same_training(attention, learn):
    first = learn(pairs(60), training={"max_steps": 4})
    notes: list[str] = []
    again = learn(pairs(60), notes=notes, reference="recomputed", training={"max_steps": 4, "attention": attention})
    assert any("computed anew for each of them: batches are padded" in n for n in notes) == (attention == "padded")
    for a, b in zip(first.lines("log.jsonl"), again.lines("log.jsonl"), strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-4)
        assert b["parts"]["margin"] == pytest.approx(a["parts"]["margin"], abs=1e-3)


def test_the_reference_is_kept_by_content(learn, tmp_path, monkeypatch):
    first = learn(pairs(60), training={"max_steps": 2})
    kept = sorted((tmp_path / "cache" / "reference").iterdir())
    assert len(kept) == 3
    monkeypatch.setattr(reference, "outputs", None)  # nothing is computed again
    again = learn(pairs(60), training={"max_steps": 2})
    assert again.facts["weights_digest"] == first.facts["weights_digest"]
    monkeypatch.undo()


def test_adapters_learn_and_a_run_that_was_stopped_ends_alike(learn, tmp_path, monkeypatch):
    base = learn(pairs(60), training={"max_steps": 1})
    more = {"model": {"name": str(base.model)}, "method": "lora", "training": {"max_steps": 6}}
    whole = learn(pairs(60), **more)
    assert whole.scores["methods"]["base"]["accuracy"]["value"] == 0.5
    real = Fit._note

    def stop(fit: Fit, report, log) -> None:
        real(fit, report, log)
        if report.step == 3:
            fit._save(log)
            raise Interrupted("as asked")

    monkeypatch.setattr(Fit, "_note", stop)
    with pytest.raises(Interrupted):
        learn(pairs(60), **more)
    monkeypatch.setattr(Fit, "_note", real)
    broken = next(r for r in every(tmp_path / "runs") if r.facts["status"] == "interrupted")
    assert luthier.resume(broken).facts["weights_digest"] == whole.facts["weights_digest"]
