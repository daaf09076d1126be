"""The span task on the real path: rows to answers, in training, evaluation and prediction alike."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
import transformers as hf
from click.testing import CliRunner

import luthier
from luthier.cli.main import root
from luthier.data.prepare import Record
from luthier.data.rows import Row
from luthier.errors import DataError, LuthierError
from luthier.evaluation.baselines import overlap
from luthier.recipe.sections import Data
from luthier.recipe.tasks.span import SpanOptions
from luthier.serving.export import export_hf
from luthier.tasks.span import EXACT, F1, NATS, NONE, SPANS, WINDOWS, Span
from luthier.tasks.squad import Answers
from tests import tiny

MOODS = [w for words in tiny.MOOD_WORDS.values() for w in words]
FILLERS = [w for w in tiny.WORDS if w not in MOODS]


def rows(count: int, *, unanswered: float = 0.0, seed: int = 0, low: int = 5, high: int = 30) -> list[dict]:
    """Passages in which one mood word is the answer; where there is none, so is the answer."""
    draw, found = random.Random(seed), []
    for i in range(count):
        words = [draw.choice(FILLERS) for _ in range(draw.randint(low, high))]
        at = draw.randrange(len(words) + 1)
        word = None if draw.random() < unanswered else draw.choice(MOODS)
        start = len(" ".join([*words[:at], ""])) if at else 0
        if word:
            words.insert(at, word)
        answers = {"text": [word], "answer_start": [start]} if word else {"text": [], "answer_start": []}
        found.append(
            {"context": " ".join(words), "question": f"what was it {draw.choice(FILLERS)}", "answers": answers, "title": f"t{i % 25}"}
        )
    return found


@pytest.fixture
def learn(tmp_path, tiny_model):
    """Train the tiny model on rows with changes to the recipe."""

    def run(some: list[dict], **sections) -> luthier.Run:
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(map(json.dumps, some)))
        merged = {
            "data": {"train": str(path), "text": "context", "text_pair": "question", "label": "answers"},
            "task": {"type": "span", "stride": 4},
            "model": {"name": str(tiny_model), "max_length": 24},
            "training": {"epochs": 6, "learning_rate": 5e-3, "batch_size": 16, "threads": 1},
            "evaluation": {"bootstrap": 100},
            "output": {"folder": str(tmp_path / "runs"), "name": "span"},
        }
        return luthier.train({k: {**merged.get(k, {}), **sections.get(k, {})} for k in {*merged, *sections}})

    return run


def task(**options) -> Span:
    return Span(SpanOptions(**options), Data(train=["none"], text="context", text_pair="question", label="answers"))


def value(run: luthier.Run, score: str, method: str = "model") -> float:
    return run.scores["methods"][method][score]["value"]


def test_long_passages_and_missing_answers_are_learned(learn):
    run = learn(rows(300, unanswered=0.3))
    assert run.facts["tokens"]["test"]["rows"] > run.facts["data"]["summary"]["test"]
    assert value(run, "exact_match") > 0.9
    assert value(run, "no_answer_accuracy") > 0.9
    assert value(run, "f1", "overlap") < 0.5
    assert "loss" not in run.scores["methods"]["overlap"]
    assert set(run.facts["data"]["summary"]["labels"]["train"]) == {"answer", "no answer"}
    answers = luthier.predict(
        run,
        [
            {"context": "the film 😀 was lovely and so on", "question": "what was it"},
            {"context": "the film and so on", "question": "what was it"},
        ],
    )
    assert (answers[0]["answer"], answers[0]["start"], answers[0]["end"]) == ("lovely", 15, 21)
    assert (answers[1]["answer"], answers[1]["start"]) == ("", None)
    assert [b["score"] for b in answers[0]["best"]] == sorted((b["score"] for b in answers[0]["best"]), reverse=True)
    again, _ = luthier.evaluate(run)
    for name in ("exact_match", "f1", "loss"):
        assert again[name]["value"] == pytest.approx(value(run, name), abs=1e-6)
    for line in run.lines("predictions/test.jsonl"):
        if line["start"] is not None:
            assert line["text"][line["start"] : line["end"]] == line["answer"]
    assert "no answer accuracy" in run.report.read_text()


def test_the_saved_model_gives_the_same_answers_in_plain_transformers(learn, tmp_path):
    run = learn(rows(90), model={"max_length": 60}, training={"epochs": 2})
    folder = tmp_path / "out"
    assert export_hf(run, folder) < 1e-4
    tokenizer, model = hf.AutoTokenizer.from_pretrained(folder), hf.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    lines = run.lines("predictions/test.jsonl")
    assert len(lines) > 10
    for line in lines:
        inputs = tokenizer(line["text_pair"], line["text"], return_offsets_mapping=True, return_tensors="pt")
        offsets, sides = inputs.pop("offset_mapping")[0].tolist(), inputs.sequence_ids(0)
        with torch.no_grad():
            found = model(**inputs)
        table = found.start_logits[0][:, None] + found.end_logits[0][None]
        inside = torch.tensor([s == 1 for s in sides])
        table[~inside] = table[:, ~inside] = -torch.inf
        table[~torch.ones_like(table).triu().tril(29).bool()] = -torch.inf
        best = int(table.flatten().argmax())
        first, last = divmod(best, len(sides))
        assert (offsets[first][0], offsets[last][1]) == (line["start"], line["end"])


def test_lora_trains_and_comes_back(learn):
    run = learn(rows(60), method={"type": "lora"}, training={"epochs": 4, "learning_rate": 1e-2})
    assert value(run, "loss") < value(run, "loss", "base")
    assert (run.model / "adapter_model.safetensors").is_file()
    again, _ = luthier.evaluate(run)
    assert again["f1"]["value"] == pytest.approx(value(run, "f1"), abs=1e-6)


def test_squad_files_of_both_versions_are_read(learn, tmp_path):
    nested = {"version": "v2.0", "data": []}
    for row in rows(120, unanswered=0.2):
        answers = [{"text": t, "answer_start": s} for t, s in zip(*row["answers"].values(), strict=True)]
        qas = [{"id": "x", "question": row["question"], "answers": answers, "is_impossible": not answers}]
        nested["data"].append({"title": row["title"], "paragraphs": [{"context": row["context"], "qas": qas}]})
    path = tmp_path / "squad.json"
    path.write_text(json.dumps(nested))
    run = learn([{}], data={"train": str(path)}, training={"epochs": 1})
    assert sum(run.facts["data"]["summary"][p] for p in ("train", "validation", "test")) == 120
    assert run.facts["inferred"]["task.null_threshold"] == 0.0


def test_no_passage_and_no_title_is_on_two_sides_of_a_split(learn):
    some = rows(150)
    twice = [{**r, "question": "was it warm", "title": r["title"]} for r in some]
    run = learn([*some, *twice], training={"max_steps": 1})
    titles = {r["context"]: r["title"] for r in some}
    test = {titles[line["text"]] for line in run.lines("predictions/test.jsonl")}
    held = [line["text"] for line in run.lines("predictions/test.jsonl")]
    assert len(held) == 2 * len(set(held))
    assert len(held) == 2 * sum(r["title"] in test for r in some)


def test_passages_are_kept_together_where_there_are_few_titles():
    answers = Answers((), -1, -1, False, "one title")
    few = [Record(f"passage {i // 3}", f"q{i}", answers, "f", i) for i in range(30)]
    groups = task().groups(few)
    assert [groups.index(g) // 3 for g in groups] == [i // 3 for i in range(30)]
    many = [Record(r.text, r.pair, answers._replace(group=f"t{i % 25}"), "f", i) for i, r in enumerate(few * 3)]
    by_passage: dict[str, set[str]] = {}
    for record, group in zip(many, task().groups(many), strict=True):
        by_passage.setdefault(record.text, set()).add(group)
    assert all(len(found) == 1 for found in by_passage.values())


def figures(*spans: tuple[float, int, int], none: float = -9.0, candidates: int = 3) -> list[float]:
    line = [2.0, 1.0, np.log(0.5), none, *(x for s in spans for x in s)]
    return [*line, *[-np.inf, -1, -1] * (candidates - len(spans))]


def test_windows_of_a_record_become_one_answer():
    records = [
        Record("the film was lovely", "how", Answers(("lovely",), 13, 19, False, ""), "f", 1),
        Record("the film was cold", "how", Answers((), -1, -1, False, ""), "f", 2),
    ]
    found = np.array(
        [
            figures((-3.0, 4, 8), (-4.0, 13, 19), none=-0.1),
            figures((-5.0, 13, 17), none=-0.2),
            figures((-0.5, 13, 19), (-3.5, 4, 8), none=-2.0),
        ]
    )
    own = task(candidates=3)
    lines = own.combine(records)(found, np.array([0, 1, 0]))
    assert lines.shape == (2, own.outputs)
    assert lines[0, [NATS, WINDOWS, EXACT, F1, NONE]].tolist() == pytest.approx([4, 2, 1, 1, -2])
    assert lines[0, SPANS:].reshape(3, 3).tolist() == [[-0.5, 13, 19], [-3, 4, 8], [-np.inf, -1, -1]]
    assert lines[1, [EXACT, F1]].tolist() == [0, 0]
    own.unanswered = True
    lines = own.combine(records)(found, np.array([0, 1, 0]))
    assert lines[:, EXACT].tolist() == [1, 1]
    said = own.decode(lines, records)
    assert [s["answer"] for s in said] == ["lovely", ""]
    assert said[0]["score"] == pytest.approx(np.exp(-0.5))
    assert said[1]["best"][0]["answer"] == ""
    scores = own.scores(own.gold(records), lines)
    assert scores == {"exact_match": 1, "f1": 1, "loss": 2, "f1_answered": 1, "no_answer_accuracy": 1}
    assert own.row_loss(own.gold(records), lines).tolist() == [0, 0]


@pytest.mark.parametrize(("threshold", "expected"), [(-1000.0, ["", ""]), (1000.0, ["lovely", "cold"]), ("auto", ["lovely", "cold"])])
def test_the_threshold_says_when_there_is_no_answer(threshold, expected):
    own = task(null_threshold=threshold, candidates=3)
    records = [Record(f"so {w}", "how", None, "f", 1) for w in ("lovely", "cold")]
    lines = own.combine(records)(np.array([figures((-1.0, 3, 9)), figures((-3.0, 3, 7), none=-0.1)]), np.arange(2))
    assert [s["answer"] for s in own.decode(lines, records)] == expected


def test_the_lexical_baseline_takes_the_sentence_most_like_the_question():
    passage = "It rained. The film was lovely, said Mr. Lee! We found the meal cold today."
    [(start, end)] = overlap(["How was the meal today?"], [passage])
    assert passage[start:end] == "We found the meal cold today."
    assert overlap(["x"], ["one"]) == [(0, 3)]


BAD = [
    ({"question": "  "}, "empty question"),
    ({"question": 7}, "question is not a string"),
    ({"context": None}, "empty passage"),
    ({"answers": {"text": ["horrible"], "answer_start": [0]}}, "the answer does not stand in the passage"),
]


@pytest.mark.parametrize(("change", "reason"), BAD)
def test_rows_that_cannot_be_used_are_quarantined_with_a_reason(change, reason):
    assert task().record(Row({**rows(1)[0], **change}, "f", 1)) == reason


def test_what_leaves_no_room_or_lies_in_no_window_is_rejected():
    tokenizer, target = tiny.tokenizer(), Answers(("film",), 4, 8, False, "")
    passage = "the film " + "was so " * 30
    long = Answers((passage[4:200],), 4, 200, False, "")
    records = [
        Record(passage, "what " * 40, target, "f", 1),
        Record(passage, "what", long, "f", 2),
        Record("\u00ad", "what", Answers((), -1, -1, False, ""), "f", 3),
        Record(passage, "what", target, "f", 4),
    ]
    found = task().encode(records, tokenizer, config=None, max_length=40, train=True)
    assert found.rejected[0].startswith("question too long: 40 of the 40 tokens")
    assert found.rejected[1] == "answer too long: no window holds it whole"
    assert 3 not in found.rejected
    assert 1 not in task().encode(records, tokenizer, config=None, max_length=40).rejected
    assert all(len(e["input_ids"]) <= 40 for e in found.tokens.examples())


@pytest.mark.parametrize("stride", [0, 3, 500])
def test_windows_cover_the_whole_passage_and_stop(stride):
    words = [tiny.WORDS[i % 40] for i in range(203)]
    record = Record(" ".join(words), "what was", Answers((), -1, -1, False, ""), "f", 1)
    found = task(stride=stride).encode([record], tiny.tokenizer(), config=None, max_length=40).tokens.examples()
    places = [[(int(b), int(e)) for b, e in zip(x["begins"], x["ends"], strict=True) if b >= 0] for x in found]
    assert [p for part in places for p in part if p][-1][1] == len(record.text)
    assert sorted({p for part in places for p in part}) == list(dict.fromkeys(p for part in places for p in part))
    shared = min(stride, 35 // 2)
    for before, after in itertools.pairwise(places):
        assert len(set(before) & set(after)) == shared
    assert len(found) == -(-(203 - 35) // (35 - shared)) + 1


def test_a_recipe_without_its_columns_is_refused(learn):
    for data, reason in [
        ({"text_pair": None}, "no column for the question"),
        ({"label": "answrs"}, "did you mean 'answers'"),
        ({"label": ["a", "b"]}, "several columns for the answer"),
        ({"text": "passage"}, "no column 'passage'"),
    ]:
        with pytest.raises(DataError, match=reason):
            learn(rows(40), data=data)
    with pytest.raises(DataError, match="no training row has an answer"):
        learn(rows(40, unanswered=1.0))
    with pytest.raises(LuthierError, match="of the 24 tokens that fit"):
        learn([{**r, "question": "what " * 30} for r in rows(40)])


def test_the_command_line_leaves_out_what_it_cannot_answer(learn, tmp_path):
    run = learn(rows(60), training={"max_steps": 2})
    path: Path = tmp_path / "asked.jsonl"
    asked = [{"context": "the film was lovely", "question": q} for q in ("what was it", "what " * 30, "")]
    path.write_text("\n".join(map(json.dumps, asked)))
    done = CliRunner().invoke(root, ["predict", str(run.folder), "--file", str(path)], catch_exceptions=False)
    assert len(done.stdout.splitlines()) == 1
    assert json.loads(done.stdout)["answer"] in "the film was lovely"
    assert "asked.jsonl:2: question too long" in done.stderr
    assert "asked.jsonl:3: empty question" in done.stderr
    with pytest.raises(DataError, match="row 2: question too long"):
        luthier.predict(run, asked[:2])
    with pytest.raises(DataError, match="row 1: empty question"):
        luthier.predict(run, ["the film was lovely"])
    done = CliRunner().invoke(root, ["evaluate", str(run.folder), str(tmp_path / "rows.jsonl")], catch_exceptions=False)
    assert "exact_match" in done.output
