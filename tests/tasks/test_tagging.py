"""Tagging: its loss is transformers' own, its scores are seqeval's, and what is saved tags the same in a plain pipeline."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from seqeval.metrics import accuracy_score, classification_report, f1_score, precision_score, recall_score
from seqeval.scheme import IOB2
from sklearn.metrics import f1_score as plain_f1
from transformers import AutoModelForTokenClassification, pipeline

import luthier
from luthier.errors import DataError, LuthierError
from luthier.models.batch import collate
from luthier.models.heads import Head
from luthier.models.load import load
from luthier.models.source import Source
from luthier.recipe.sections import Data, Model
from luthier.recipe.tasks.tagging import TaggingOptions
from luthier.serving.export import export_hf
from luthier.tasks.tagfigures import Figures
from luthier.tasks.tagging import Tagging
from luthier.tasks.tags import label_space
from luthier.workflow.check import check
from luthier.workflow.measure import compare, predictor_of
from tests import tiny

GOOD, BAD = tiny.MOOD_WORDS["positive"], tiny.MOOD_WORDS["negative"]


def sentences(count: int, *, seed: int = 0) -> list[tuple[list[str], list[str]]]:
    """Words and tags: runs of happy words are GOOD, of unhappy ones BAD."""
    draw = random.Random(seed)
    fillers = [w for w in tiny.WORDS if w not in GOOD + BAD]
    rows = []
    for _ in range(count):
        words: list[str] = []
        tags: list[str] = []
        for _ in range(draw.randint(2, 5)):
            kind, pool = draw.choice([("", fillers), ("GOOD", GOOD), ("BAD", BAD)])
            run = [draw.choice(pool) for _ in range(draw.randint(1, 3))]
            if tags and kind and tags[-1].endswith(kind):
                words, tags = [*words, "the"], [*tags, "O"]
            words += run
            tags += ["O"] * len(run) if not kind else [f"{'I' if i else 'B'}-{kind}" for i in range(len(run))]
        rows.append((words, tags))
    return rows


def spans_of(words: list[str], tags: list[str]) -> list[dict]:
    found: list[dict] = []
    place = 0
    for word, tag in zip(words, tags, strict=True):
        if tag[0] == "B":
            found.append({"start": place, "end": place + len(word), "label": tag[2:]})
        elif tag[0] == "I":
            found[-1]["end"] = place + len(word)
        place += len(word) + 1
    return found


def write(path: Path, rows: list[dict]) -> Path:
    path.write_text("\n".join(json.dumps(r, ensure_ascii=False) for r in rows), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    """The same sentences with tags, and with spans of characters."""
    folder = tmp_path_factory.mktemp("tagging")
    rows = sentences(400)
    words = write(folder / "words.jsonl", [{"words": w, "tags": t} for w, t in rows])
    return words, write(folder / "spans.jsonl", [{"text": " ".join(w), "spans": spans_of(w, t)} for w, t in rows])


def recipe(train: Path, model: Path, folder: Path, **task) -> dict:
    return {
        "data": {"train": str(train), "validation_share": 0.15, "test_share": 0.2},
        "task": {"type": "tagging", **task},
        "model": {"name": str(model)},
        "training": {"epochs": 8, "batch_size": 16, "learning_rate": 5e-3, "threads": 1},
        "evaluation": {"bootstrap": 100, "general_probe": False},
        "output": {"folder": str(folder / "runs"), "name": "tags"},
    }


@pytest.fixture(scope="module")
def trained(files, tiny_model, tmp_path_factory):
    """A run on words, and one on texts."""
    folder = tmp_path_factory.mktemp("trained")
    return [luthier.train(recipe(file, tiny_model, folder)) for file in files]


def loaded_tiny(folder: Path, labels: list[str]):
    head = Head("words", len(labels), tuple(labels))
    return load(Source(str(folder), str(folder), None), Model(name=str(folder)), head=lambda config: head)


def task_of(labels: list[str], **options) -> Tagging:
    columns = {"text": "text", "words": "words", "tags": "tags", "spans": None}
    return Tagging(TaggingOptions(**options), Data(train=["none"]), kind="entities", labels=labels, columns=columns)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("family", ["bert", "distilbert", "roberta", "llama", "deberta"])
def test_the_loss_and_its_gradient_are_those_of_transformers(family, smoothing, tmp_path):
    from luthier.data.rows import Row

    folder = tiny.save(family, tmp_path / family)
    task = task_of(label_space(["BAD", "GOOD"], "bio"), label_smoothing=smoothing)
    loaded = loaded_tiny(folder, list(task.labels))
    loaded.model.eval()
    records = [task.record(Row({"words": w, "tags": t}, "f", i)) for i, (w, t) in enumerate(sentences(6))]
    encoded = task.encode(records, loaded.tokenizer, config=None, max_length=64, train=True)
    examples = list(encoded.tokens.examples())
    found = task.loss(loaded.layout)(loaded.model, collate(examples, types=loaded.layout.token_types))
    assert found.weight == sum(len(w) for w, _ in sentences(6))
    (found.sum / found.weight).backward()
    mine = {n: p.grad.clone() for n, p in loaded.model.named_parameters() if p.grad is not None}
    loaded.model.zero_grad()
    loaded.model.set_attn_implementation("eager")
    longest = max(len(e["input_ids"]) for e in examples)

    def padded(name: str, fill: int) -> torch.Tensor:
        return torch.tensor([[*np.asarray(e[name]).tolist(), *[fill] * (longest - len(e[name]))] for e in examples])

    ids, labels = padded("input_ids", loaded.layout.pad_id), padded("tags", -100)
    mask = torch.tensor([[1] * len(e["input_ids"]) + [0] * (longest - len(e["input_ids"])) for e in examples])
    logits = loaded.model(input_ids=ids, attention_mask=mask).logits
    theirs = torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels.flatten(), label_smoothing=smoothing)
    assert float(found.sum.detach()) / found.weight == pytest.approx(float(theirs.detach()), rel=1e-5)
    theirs.backward()
    whole = torch.cat([p.grad.flatten() for n, p in loaded.model.named_parameters() if n in mine])
    apart = torch.cat([(mine[n] - p.grad).flatten() for n, p in loaded.model.named_parameters() if n in mine])
    assert apart.norm() < 1e-5 * whole.norm()


def logits_of(tags: list[list[str]], labels: list[str], noise: np.random.Generator) -> list[np.ndarray]:
    """Scores whose highest are the tags."""
    found = []
    for row in tags:
        values = noise.normal(size=(len(row), len(labels)))
        values[np.arange(len(row)), [labels.index(t) for t in row]] += 8
        found.append(values)
    return found


@pytest.mark.parametrize("constrained", [True, False])
def test_scores_are_those_of_seqeval(constrained):
    """Free tags break the scheme and are read as seqeval reads them by default; allowed ones are the same in its strict mode."""
    labels, draw = label_space(["LOC", "ORG", "PER"], "bio"), random.Random(0)
    figures = Figures("entities", labels, scheme="bio" if constrained else None)
    gold = [tags for _, tags in sentences(60)]
    gold = [[t.replace("GOOD", "PER").replace("BAD", "LOC") for t in row] for row in gold]
    said = [[draw.choice(labels) if draw.random() < 0.3 else t for t in row] for row in gold]
    lines = figures.lines(logits_of(said, labels, np.random.default_rng(0)), [[labels.index(t) for t in row] for row in gold])
    predicted = [figures.said(line, len(row))[0] for line, row in zip(lines, gold, strict=True)]
    assert constrained or predicted == said
    found = figures.scores(lines)
    for options in [{}, {"mode": "strict", "scheme": IOB2}] if constrained else [{}]:
        assert found["precision"] == pytest.approx(precision_score(gold, predicted, **options))
        assert found["recall"] == pytest.approx(recall_score(gold, predicted, **options))
        assert found["f1"] == pytest.approx(f1_score(gold, predicted, **options))
        assert found["f1_macro"] == pytest.approx(f1_score(gold, predicted, average="macro", **options))
        report = classification_report(gold, predicted, output_dict=True, **options)
        for row in figures.classes(lines):
            if row["label"] in report:
                theirs = report[row["label"]]
                assert (row["precision"], row["recall"], row["n"]) == pytest.approx(
                    (theirs["precision"], theirs["recall"], theirs["support"])
                )
    assert found["accuracy"] == pytest.approx(accuracy_score(gold, predicted))
    assert 0.2 < found["f1"] < 0.95
    assert figures.row_loss(lines)[0] == pytest.approx(1 - f1_score(gold[:1], predicted[:1], zero_division=1))


def test_scores_of_classes_are_those_of_sklearn_and_skip_what_has_no_tag():
    labels, draw = ["ADJ", "NOUN", "VERB"], np.random.default_rng(0)
    figures = Figures("words", labels, scheme=None)
    gold = [draw.integers(-1, 3, 7) for _ in range(40)]
    gold = [np.where(g < 0, -100, g) for g in gold]
    said = [draw.integers(0, 3, 7) for _ in range(40)]
    values = [np.stack([s, np.full(7, 0.5), np.ones(7)], 1) for s in said]
    found = figures.scores(figures.lines(values, [g.tolist() for g in gold]))
    flat, answers = np.concatenate(gold), np.concatenate(said)
    held = flat >= 0
    assert found["accuracy"] == pytest.approx((flat == answers)[held].mean())
    assert found["f1_macro"] == pytest.approx(plain_f1(flat[held], answers[held], average="macro"))
    assert found["loss"] == pytest.approx(1.0)
    assert found["sentence_accuracy"] == np.mean([(g == s)[g >= 0].all() for g, s in zip(gold, said, strict=True)])


def test_entities_are_learned_and_answered_in_words_and_in_characters(trained):
    for run in trained:
        assert run.facts["task"] == "tagging/entities"
        found = run.scores["methods"]
        assert found["model"]["f1"]["value"] > 0.85
        assert found["majority"]["f1"]["value"] == 0.0
        assert found["model"]["f1/GOOD"]["value"] > 0.8
        assert 0.2 < found["lexicon"]["f1"]["value"] < found["model"]["f1"]["value"]
        page = run.report.read_text()
        assert "commonest tag of each word" in page
        assert "test entities" in page
    text = "the film was so lovely great but awful"
    spans = [{k: s[k] for k in ("start", "end", "label", "text")} for s in luthier.predict(trained[1], [text])[0]["spans"]]
    assert spans == [
        {"start": 16, "end": 28, "label": "GOOD", "text": "lovely great"},
        {"start": 33, "end": 38, "label": "BAD", "text": "awful"},
    ]
    answer = luthier.predict(trained[0], [{"words": text.split()}])[0]
    assert answer["tags"] == ["O", "O", "O", "O", "B-GOOD", "I-GOOD", "O", "B-BAD"]
    assert all(0.3 < s <= 1 for s in answer["scores"])
    assert [s["text"] for s in luthier.predict(trained[0], [text])[0]["spans"]] == ["lovely great", "awful"]


def test_what_is_saved_tags_the_same_in_a_plain_pipeline(trained, tmp_path):
    """Word by word: a pipeline knows nothing of what may follow what."""
    run = trained[0]
    tags, mine = pipeline("token-classification", str(run.model)), predictor_of(run)
    mine.task.figures.scheme = None
    rows = run.lines("predictions/test.jsonl")
    for row, said in zip(rows, mine.predict([{"words": r["words"]} for r in rows]), strict=True):
        theirs = {p["index"] - 1: p["entity"] for p in tags(row["text"], ignore_labels=[])}
        assert [theirs[i] for i in range(len(row["words"]))] == said["tags"]
    assert export_hf(run, tmp_path / "out") < 1e-4
    assert isinstance(AutoModelForTokenClassification.from_pretrained(tmp_path / "out").config.id2label[1], str)
    assert "token-classification" in (run.model / "README.md").read_text()


def test_the_saved_model_scores_the_same_again(trained):
    for run in trained:
        scores, _ = luthier.evaluate(run)
        assert scores["f1"]["value"] == run.scores["methods"]["model"]["f1"]["value"]
        assert scores["loss"]["value"] == pytest.approx(run.scores["methods"]["model"]["loss"]["value"], rel=1e-6)


def test_two_runs_are_compared_sentence_by_sentence(trained, files, tiny_model, tmp_path):
    other = luthier.train(recipe(files[0], tiny_model, tmp_path, scheme="iobes") | {"training": {"epochs": 1, "threads": 1}})
    with pytest.raises(LuthierError, match="different labels"):
        compare(trained[0], other)
    short = recipe(files[0], tiny_model, tmp_path)
    short["training"]["max_steps"] = 5
    result, differing = compare(trained[0], luthier.train(short))
    assert result.differences["f1"][0] < 0
    assert result.n == 80
    assert differing


@pytest.mark.parametrize("method", ["lora", "bitfit", {"type": "freeze", "layers": 1}])
def test_other_methods_learn_too(method, files, tiny_model, tmp_path):
    wanted = {**recipe(files[0], tiny_model, tmp_path), "method": method}
    wanted["training"] |= {"epochs": 4, "learning_rate": 2e-2}
    run = luthier.train(wanted)
    assert run.scores["methods"]["model"]["f1"]["value"] > 0.2 + run.scores["methods"]["base"]["f1"]["value"]
    scores, _ = luthier.evaluate(run)
    assert scores["f1"]["value"] == pytest.approx(run.scores["methods"]["model"]["f1"]["value"], abs=0.02)


def test_long_texts_are_answered_whole(trained):
    words = [w for row in sentences(30, seed=5) for w in row[0]]
    answer = luthier.predict(trained[0], [{"words": words}])[0]
    assert len(answer["tags"]) == len(words) > 64
    gold = [t for row in sentences(30, seed=5) for t in row[1]]
    assert np.mean([a[2:] == b[2:] for a, b in zip(answer["tags"], gold, strict=True)]) > 0.95
    text = luthier.predict(trained[1], [" ".join(words)])[0]["spans"]
    assert max(s["end"] for s in text) > 300


def test_constrained_answers_keep_to_the_scheme(trained):
    from luthier.tasks.tags import faults

    rows = [r["tags"] for r in trained[0].lines("predictions/test.jsonl")]
    assert sum(faults(tags, "bio") for tags in rows) == 0


def test_rows_that_cannot_be_used_are_set_aside_with_the_reason(files, tiny_model, tmp_path):
    good = [{"text": " ".join(w), "spans": spans_of(w, t)} for w, t in sentences(150)]
    bad = [
        ({"text": "the film", "spans": [{"start": 4, "end": 99, "label": "GOOD"}]}, "a span from 4 to 99 in a text of 8 characters"),
        ({"text": "the film", "spans": [{"start": 3, "end": 4, "label": "GOOD"}]}, "a span without a word"),
        ({"text": "the film", "spans": [{"start": 0, "end": 8, "label": "GOOD"}, {"start": 4, "end": 8, "label": "BAD"}]}, "spans overlap"),
        ({"text": "the film", "spans": [{"start": 0, "end": 3}]}, "a span without a label"),
        ({"text": "  ", "spans": []}, "empty text"),
        ({"text": "the film", "spans": None}, "spans are not a list"),
    ]
    cut = {"text": "lovely staff", "spans": [{"start": 1, "end": 4, "label": "GOOD"}]}
    path = write(tmp_path / "bad.jsonl", [*good, *(b for b, _ in bad), cut])
    found = check(recipe(path, tiny_model, tmp_path), with_model=False)
    reasons = [q.reason for q in found.quarantined]
    assert [reason for _, reason in bad if not any(r.startswith(reason) for r in reasons)] == []
    assert found.summary["rows_quarantined"] == len(bad)
    assert "1 spans did not stand at the borders of words, and were moved there" in found.notes


def test_words_and_tags_that_do_not_fit_are_set_aside(tiny_model, tmp_path):
    rows = [{"words": w, "tags": t} for w, t in sentences(150)]
    bad = [
        {"words": ["a", "film"], "tags": ["O"]},
        {"words": [], "tags": []},
        {"words": ["a", ""], "tags": ["O", "O"]},
        {"words": ["a", "b"], "tags": ["O", "PER"]},
        {"words": "a film", "tags": ["O", "O"]},
    ]
    path = write(tmp_path / "w.jsonl", [*rows, *bad])
    found = check(recipe(path, tiny_model, tmp_path), with_model=False)
    reasons = ["1 tags for 2 words", "no words", "empty word", "not a tag of an entity: 'PER'", "words are not a list"]
    assert [q.reason for q in found.quarantined] == reasons


@pytest.mark.parametrize(
    ("row", "task", "match"),
    [
        ({"words": ["a"], "marks": ["O"]}, {}, "no column 'label', tags or spans"),
        ({"words": ["a"], "tags": "O"}, {}, "holds no lists"),
        ({"body": "a", "tags": ["O"]}, {}, "no column with lists of words"),
        ({"body": "a", "spans": [{"start": 0, "end": 1, "label": "X"}]}, {}, "no column 'text' for the text"),
        ({"words": ["a"], "tags": ["O"]}, {"kind": "entities"}, "do not look like B-PER"),
        ({"text": "a", "spans": [{"start": 0, "end": 1, "label": "X"}]}, {"kind": "words"}, "holds spans, not a tag"),
        ({"words": ["a"], "tags": ["B-X"]}, {"ignore": ["X"]}, "training has no tags"),
    ],
)
def test_data_that_cannot_be_learned_are_refused_before_work(row, task, match, tiny_model, tmp_path):
    with pytest.raises(DataError, match=match):
        check(recipe(write(tmp_path / "x.jsonl", [row] * 20), tiny_model, tmp_path, **task), with_model=False)


@pytest.mark.parametrize("name", ["text_pair", "label_separator"])
def test_what_is_not_for_tagging_is_refused(name, files, tiny_model, tmp_path):
    wanted = recipe(files[0], tiny_model, tmp_path)
    wanted["data"][name] = "text"
    with pytest.raises(DataError, match="is not for tagging"):
        check(wanted, with_model=False)


def test_a_file_with_nothing_but_broken_sentences_says_what_is_wrong(tiny_model, tmp_path):
    (tmp_path / "bad.conllu").write_text("1\ta\n\n")
    with pytest.raises(DataError, match="no usable rows for train, the first because: 2 columns where CoNLL-U has 10"):
        check(recipe(tmp_path / "bad.conllu", tiny_model, tmp_path), with_model=False)


def test_tags_that_training_lacks_are_counted_and_are_mistakes(tiny_model, tmp_path):
    rows = [{"words": ["the", "film", "was", "great"], "tags": ["DET", "NOUN", "VERB", "ADJ"]}] * 30
    held = write(tmp_path / "held.jsonl", [{"words": ["so", "great"], "tags": ["ADV", "ADJ"]}] * 4)
    wanted = recipe(write(tmp_path / "w.jsonl", rows), tiny_model, tmp_path)
    wanted["data"] |= {"test": str(held), "validation": str(held)}
    run = luthier.train(wanted)
    assert any("1 types or tags stand in validation or test alone" in n for n in run.facts["notes"])
    assert run.scores["methods"]["model"]["accuracy"]["value"] <= 0.5
    assert run.scores["methods"]["lexicon"]["accuracy"]["value"] == 0.5


def test_a_question_that_is_neither_text_nor_words_is_refused(trained):
    with pytest.raises(DataError, match="row 2: empty text"):
        luthier.predict(trained[0], ["a film", ""])
    with pytest.raises(DataError, match="no words"):
        luthier.predict(trained[0], [{"words": []}])
