"""`luthier init`: the recipe it writes names the right task and passes `luthier check`; nothing is written over."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner

from luthier.cli.main import root
from luthier.data.origin import SAMPLES
from luthier.errors import DataError, SpaceError
from luthier.workflow.check import check
from luthier.workshop.first_recipe import first_recipe

RIGHT = {
    "alpaca_en_demo/alpaca_en_demo.json": ("chat", {}),
    "alpaca_en_demo/dpo_en_demo.json": ("preference", {"task.columns": {"prompt": "conversations"}, "method.type": "lora"}),
    "banking77/train.csv": ("classification", {"data.label": "category", "model.name": "minilm"}),
    "cuad_clauses/clauses.csv": ("classification", {"data.label": "category"}),
    "goemotions/train.tsv": ("classification", {"data.label": "column_2", "data.label_separator": ","}),
    "medquad/medquad.jsonl": ("chat", {"task.columns": {"prompt": "question", "completion": "answer"}, "model.name": "starter"}),
    "pairs/questions.csv": ("classification", {"data.text": "question1", "data.text_pair": "question2", "data.label": "duplicate"}),
    "quality/essays.csv": ("classification", {"task.kind": "regression", "data.label": "score"}),
    "scitldr/train.jsonl": ("text2text", {"data.text": "source", "data.label": "target"}),
    "symptom2disease/Symptom2Disease.csv": ("classification", {"data.label": "label", "data.text": "text"}),
    "t0_families/paws.jsonl.gz": ("chat", {"data.group": "passage"}),
    "tatoeba_en_de/deu.txt": ("text2text", {"data.format": "tsv", "data.columns": ["column_1", "column_2"]}),
    "tweet_sentiment_extraction/train.csv": ("classification", {"data.text": "text", "data.label": "sentiment"}),
    "twitter_financial/sent_train.csv": ("classification", {"data.label": "label"}),
    "ud_english_ewt/en_ewt-ud-train.conllu.gz": ("parsing", {}),
    "ud_english_ewt/en_ewt-ud-dev.iob2": ("tagging", {"data.text": "words", "data.label": "tags"}),
    "xquad/xquad.en.json": ("span", {"data.text": "context", "data.text_pair": "question", "data.label": "answers"}),
}


@pytest.mark.parametrize("sample", RIGHT)
def test_the_recipe_of_a_sample_names_its_task_and_passes_check(sample, tmp_path):
    task, values = RIGHT[sample]
    first = first_recipe(str(SAMPLES / sample), folder=tmp_path)
    (tmp_path / "recipe.yaml").write_text(first.text, encoding="utf-8")
    found = check(tmp_path / "recipe.yaml", with_model=False)
    assert found.resolved.recipe.task.type == first.guess.task == task
    assert {path: first.values[path].value for path in values} == values
    assert min(found.summary[part] for part in ("train", "validation", "test")) > 0
    assert all(told.origin for told in first.values.values())


def test_files_beside_the_training_file_are_taken(tmp_path):
    first = first_recipe(str(SAMPLES / "scitldr" / "train.jsonl"), folder=SAMPLES)
    assert first.values["data.train"].value == "scitldr/train.jsonl"
    assert (first.values["data.validation"].value, first.values["data.test"].value) == ("scitldr/dev.jsonl", "scitldr/test.jsonl")
    tweets = first_recipe(str(SAMPLES / "quality" / "essays.csv"), folder=SAMPLES)
    assert "data.test" not in tweets.values


def test_limits_come_from_the_rows(write_csv, tmp_path):
    rows = [[f"text number {i} about a thing or two", "" if i % 5 == 0 else "odd" if i % 2 else "even"] for i in range(60)]
    path = write_csv("gaps.csv", ["text", "label"], [*rows, *rows[1:4]])
    first = first_recipe(str(path), folder=tmp_path)
    assert first.values["data.duplicates"].value == "drop"
    assert 0.2 < first.values["data.max_bad_share"].value < 0.4
    (tmp_path / "r.yaml").write_text(first.text)
    assert check(tmp_path / "r.yaml", with_model=False).summary["rows_quarantined"] == 12


@pytest.mark.parametrize(
    ("columns", "rows", "task", "kind"),
    [
        (["text", "toxic", "rude"], lambda i: [f"some words of number {i} here", i % 2, int(i % 3 == 0)], "classification", "several labels"),
        (["query", "positive", "negative"], lambda i: [f"a query {i}", f"the right text {i}", f"a wrong text {i}"], "embedding", "triplets"),
        (["document", "summary"], lambda i: [f"a much longer text with number {i} in it", f"short text of {i}"], "text2text", "texts for texts"),
        (["prompt", "completion", "label"], lambda i: [f"ask {i}", f"say {i}", bool(i % 2)], "preference", "unpaired"),
        (["quote", "likes"], lambda i: [f"a wise word of many about {i}", i * 7919 % 10007], "causal", "plain text"),
    ],
)  # fmt: skip
def test_tasks_are_told_by_columns(columns, rows, task, kind, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(json.dumps(dict(zip(columns, rows(i), strict=True))) for i in range(60)))
    first = first_recipe(str(path), folder=tmp_path)
    assert (first.guess.task, first.guess.kind) == (task, kind)
    (tmp_path / "r.yaml").write_text(first.text)
    check(tmp_path / "r.yaml", with_model=False)


def test_columns_may_be_named(tmp_path):
    path = tmp_path / "train.csv"
    path.write_bytes((SAMPLES / "tweet_sentiment_extraction" / "train.csv").read_bytes())
    first = first_recipe(str(path), folder=tmp_path, text=["text"], label="selected_text", model="starter")
    assert (first.guess.task, first.values["data.label"].value) == ("text2text", "selected_text")
    pair = first_recipe(str(path), folder=tmp_path, text=["text", "selected_text"], label="sentiment")
    assert pair.values["data.text_pair"].value == "selected_text"


def test_the_command_writes_once(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    file = str(SAMPLES / "banking77" / "train.csv")
    done = CliRunner().invoke(root, ["init", file], catch_exceptions=False)
    assert done.exit_code == 0
    assert "data.label: category" in done.output
    assert "next    luthier check recipe.yaml" in done.output
    written = (tmp_path / "recipe.yaml").read_text()
    assert yaml.safe_load(written)["data"]["label"] == "category"
    assert written.count("#") >= 8
    again = CliRunner().invoke(root, ["init", file, "--label", "text"])
    assert isinstance(again.exception, SpaceError)
    assert "--force" in str(again.exception)
    assert (tmp_path / "recipe.yaml").read_text() == written
    forced = CliRunner().invoke(root, ["init", str(SAMPLES / "quality" / "essays.csv"), "--force"], catch_exceptions=False)
    assert forced.exit_code == 0
    assert "regression" in (tmp_path / "recipe.yaml").read_text()


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("nothing.csv", None, "no such file"),
        ("image.png", b"\x89PNG\r\n", "cannot tell the format"),
        ("empty.csv", b"", "is empty"),
        ("few.csv", b"text,label\na text of words,x\n", "too few"),
        ("numbers.csv", b"a,b\n" + b"1,2\n3,4\n" * 5, "no texts to learn from"),
    ],
)
def test_files_that_cannot_be_used_get_one_line_and_a_remedy(name, content, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if content is not None:
        (tmp_path / name).write_bytes(content)
    done = CliRunner().invoke(root, ["init", name])
    assert isinstance(done.exception, DataError)
    assert says in str(done.exception)
    assert done.exception.fault.remedy
    assert not (tmp_path / "recipe.yaml").exists()


def test_what_recipes_do_not_read_is_led_through_the_workshop(tmp_path):
    pyarrow = pytest.importorskip("pyarrow")
    table = pyarrow.table({"text": [f"some words about {i}" for i in range(9)], "label": ["a", "b", "c"] * 3})
    with pyarrow.OSFile(str(tmp_path / "rows.arrow"), "wb") as file, pyarrow.ipc.new_file(file, table.schema) as writer:
        writer.write_table(table)
    with pytest.raises(DataError, match=r"luthier data clean .*rows\.arrow --to jsonl"):
        first_recipe(str(tmp_path / "rows.arrow"), folder=tmp_path)
