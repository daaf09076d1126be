"""A recipe's `data.clean`: rows are cleaned before they become records, and the summary and report say so."""

from __future__ import annotations

import json

import luthier
from luthier.data.clean import clean
from luthier.data.rows import Row, Rows, read
from luthier.data.stream import open_stream
from luthier.data.tidy import tidied
from luthier.recipe import load_recipe
from luthier.recipe.sections import Data
from luthier.workflow.dataset import dataset


def rows_of(*values, file="a"):
    return Rows([Row(v, file, n) for n, v in enumerate(values, 1)])


def test_of_two_rows_that_repeat_each_other_the_one_for_training_goes():
    data = Data(train=["a"], text="said", clean=["duplicates", "whitespace"])
    parts = {"train": rows_of({"said": "one"}, {"said": "two  words"}), "test": rows_of({"said": "ONE"}, {"said": "three"}, file="b")}
    found, books = tidied(parts, data)
    assert [r.values["said"] for r in found["train"].rows] == ["two words"]
    assert [r.values["said"] for r in found["test"].rows] == ["ONE", "three"]
    assert (books.read, books.kept, books.total("dropped")) == (4, 3, 1)
    assert parts["train"].rows[1].values["said"] == "two  words"


def test_rows_that_no_stage_touches_are_the_same_objects():
    messages = [{"role": "user", "content": "hi  there"}]
    rows = rows_of({"messages": messages, "n": 1 << 70}, {"text": " x ", "n": 2.5}, {"text": "\ud800", "n": 0})
    found, books = tidied({"train": rows}, Data(train=["a"], clean=["whitespace"]))
    assert found["train"].rows[0] is rows.rows[0]
    assert found["train"].rows[1].values == {"text": "x", "n": 2.5}
    assert [(q.line, q.reason) for q in found["train"].quarantined] == [(3, "half a character (a lone surrogate): in column 'text'")]
    assert books.read == 2


def test_dropped_rows_are_counted_in_the_summary_and_told(recipe, moods):
    content = moods.read_text().splitlines()
    moods.write_text("\n".join([*content, *content[1:11], f"{'way too long ' * 50},positive"]) + "\n")
    recipe["data"]["clean"] = ["duplicates", {"type": "length", "at_most": 100}]
    plain = dataset(load_recipe({**recipe, "data": {**recipe["data"], "clean": []}})).prepared
    found = dataset(load_recipe(recipe)).prepared
    assert plain.summary["rows_dropped_by_cleaning"] == 0
    assert "cleaning" not in plain.summary
    distinct = len({line.casefold() for line in content[1:]})
    assert found.summary["rows_dropped_by_cleaning"] == 131 - distinct
    assert found.summary["rows_read"] == plain.summary["rows_read"] == 131
    assert sum(found.summary[p] for p in ("train", "validation", "test")) == distinct
    assert found.summary["cleaning"]["dropped"] == 131 - distinct
    assert any(note.startswith("cleaning, stage 2 length: 1 rows dropped (1 too long)") for note in found.notes)
    recipe["training"]["max_steps"] = 1
    run = luthier.train(recipe)
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    assert f"<td>left out as asked</td><td>{131 - distinct}</td>" in page
    assert "cleaning, stage 2 length" in page


def test_what_the_workshop_writes_a_recipe_reads(tmp_path):
    rows = [
        {"text": "a", "messages": [{"role": "user", "content": "x"}], "tags": ["p", "q"], "odd": 1},
        {"text": "b", "messages": None, "tags": [], "odd": "one"},
    ]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for kind in ("parquet", "jsonl"):
        clean(open_stream([str(tmp_path / "a.jsonl")]), [], tmp_path / kind, format=kind)
        assert [r.values for r in read(tmp_path / kind / f"a.{kind}").rows] == rows
