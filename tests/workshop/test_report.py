"""The data report: its figures on rows that are known, its page, and that no value of personal data is in either."""

from __future__ import annotations

import gzip
import json
import re

import pytest
from click.testing import CliRunner

from luthier.cli.main import root
from luthier.data.origin import SAMPLES
from luthier.data.profile import profile
from luthier.data.repeats import repeats
from luthier.data.sample import Sample
from luthier.data.sources.source import Reading
from luthier.data.stream import open_stream
from luthier.errors import DataError, SpaceError
from luthier.workshop.lengths import histogram, tokens_of
from luthier.workshop.page import page, warnings
from luthier.workshop.report import report

MAIL = "anna.schmidt@firma-kranz.de"
TEXTS = [
    "the parcel came two days late and the box was wet all over when it came",
    "nobody answered the telephone when i called the shop about my refund today",
    "the new lamp works well and looks lovely beside the bed in our small room",
]


@pytest.fixture
def orders(write_csv):
    """Ten rows: a repeat, a near repeat, a conflict, personal data, a missing label."""
    rows = [[i, text, label] for i, (text, label) in enumerate(zip(TEXTS, ("late", "refund", "praise"), strict=True))]
    rows += [
        [3, TEXTS[0].upper(), "late"],
        [4, TEXTS[0].replace("wet", "damp"), "late"],
        [5, TEXTS[1], "late"],
        [6, f"please write to {MAIL} about the chair that broke after a week of use", "refund"],
        [7, "i love it", "praise"],
        [8, "it broke and i want my money back as soon as you can send it", "refund"],
        [9, "a row without any label that somebody forgot to fill in last week", ""],
    ]
    return write_csv("orders.csv", ["id", "text", "label"], rows)


def test_the_figures_are_those_of_the_rows(orders):
    facts = report([str(orders)])
    assert facts["rows"] == {"read": 10, "usable": 10, "quarantined": 0}
    assert facts["sample"] == {"rows": 10, "whole": True}
    columns = {c["name"]: c for c in facts["columns"]}
    assert [c["type"] for c in columns.values()] == ["whole number", "text", "text"]
    assert [c["role"] for c in columns.values()] == ["", "text", "target"]
    assert (columns["label"]["missing"], columns["label"]["distinct"]) == (1, 3)
    assert (columns["id"]["range"], columns["text"]["distinct"]) == ((0.0, 9.0), 9)
    assert (facts["task"]["name"], facts["task"]["kind"]) == ("classification", "one label")
    assert facts["classes"] == {"late": 4, "refund": 3, "praise": 2}
    assert (facts["repeats"]["same"], facts["repeats"]["nearly"], facts["repeats"]["conflicting"]) == (2, 1, 2)
    assert facts["personal"]["by_column"] == {"text": {"email": 1}}
    assert facts["personal"]["rows"] == 1
    assert facts["languages"]["en"] >= 8
    assert any("'label'" in line for line in warnings(facts))


def test_no_value_of_personal_data_is_told(orders, tmp_path):
    facts = report([str(orders)])
    told = json.dumps(facts) + page(facts)
    assert "anna" not in told
    assert "[EMAIL]" in told


def test_personal_data_in_labels_and_in_broken_rows_is_masked(tmp_path):
    path = tmp_path / "mail.csv"
    lines = [f"some words about a thing number {i},{MAIL if i % 2 else 'other'}" for i in range(8)]
    path.write_text("\n".join(["text,label", *lines, f"too,many,{MAIL}"]) + "\n")
    facts = report([str(path)])
    assert facts["quarantine"]["reasons"] == {"3 fields where the header has 2": 1}
    assert "anna" not in json.dumps(facts) + page(facts)


def test_the_page_stands_alone_and_escapes_what_it_shows(write_csv):
    rows = [["<script>alert(1)</script> and some more words here", "<b>" if i % 2 else "plain & simple"] for i in range(6)]
    html = page(report([str(write_csv("bad<name>.csv", ["text", "label"], rows))]))
    assert "<script" not in html
    assert "<b>&" not in html
    assert "&lt;b&gt;" in html
    assert not re.search(r"(src|href)=|https?://|@import", html)


def test_what_stands_in_two_files_is_told(write_csv):
    train = write_csv("train.csv", ["text", "label"], [[t, str(i)] for i, t in enumerate(TEXTS)])
    test = write_csv("test.csv", ["text", "label"], [[TEXTS[0].title(), "0"], [TEXTS[1].replace("refund", "money"), "9"], ["all new", "1"]])
    facts = report([str(train), str(test)])
    assert facts["repeats"]["overlaps"] == [{"first": "train", "second": "test", "same": 1, "nearly": 1, "rows": 3}]
    assert facts["unknown_classes"] == {"test": ["9"]}
    assert warnings(facts)[0].startswith("1 of 3 rows of test stand in train too, and 1 nearly do")


def test_rows_without_a_text_repeat_none(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in (f"of {name}", "", " ", None)))
    found = repeats(open_stream([str(tmp_path / "one.jsonl"), str(tmp_path / "two.jsonl")]), texts=["text"])
    assert (found.same, found.conflicting, found.examples, [o.same for o in found.overlaps]) == (0, 0, [], [0])


def test_encoding_mark_and_dialect_are_told(tmp_path):
    path = tmp_path / "notes.csv"
    path.write_bytes("text;label\nein schöner Tag am See;gut\nein schlechter Tag am See;schlecht\n".encode("utf-16"))
    (file,) = report([str(path)])["files"]
    assert (file["encoding"], file["byte_order_mark"]) == ("utf-16 with a byte-order mark", True)
    assert file["dialect"].startswith("fields separated by semicolons")


def test_lengths_are_those_of_the_tokenizer(tiny_model):
    found = tokens_of([["the film"], ["the film", "was great"]], model=str(tiny_model))
    assert found.counts == [4, 6]
    assert found.reads == 64
    assert tokens_of([["the film"] * 1, ["the " * 70]], model=str(tiny_model)).longer == 1
    assert tokens_of([["the film", "was great"]], model=str(tiny_model), paired=True).counts == [7]


def test_histogram_counts_every_row():
    assert sum(n for _, _, n in histogram([1, 2, 3, 500, 2, 2])) == 6
    assert histogram([]) == []


def test_a_sample_is_every_row_or_an_even_share_within_its_limits():
    stream = open_stream([str(SAMPLES / "banking77" / "train.csv")])
    batches = [portion.batch for portion in stream.portions()]
    small, whole = Sample(stream.schema, rows=20), Sample(stream.schema)
    for batch in batches:
        for start in range(0, batch.num_rows, 10):
            small.add(batch.slice(start, 10))
            whole.add(batch.slice(start, 10))
    assert whole.table().num_rows == 72
    drawn = small.table().column("__line").to_pylist()
    assert len(drawn) == 20
    assert drawn == sorted(drawn)
    assert drawn[0] < 40 < drawn[-1]
    tight = Sample(stream.schema, size=2000)
    for batch in batches:
        tight.add(batch)
    assert 0 < tight.table().num_rows < 72
    assert tight.table().nbytes <= 2000


def test_rows_that_repeat_across_types_are_compared_whole(tmp_path):
    path = tmp_path / "talks.jsonl"
    talks = [{"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": c}]} for c in ("yes", "no", "yes")]
    path.write_text("\n".join(map(json.dumps, talks)))
    assert repeats(open_stream([str(path)]), texts=["messages"], near=False).same == 1


def test_files_without_a_usable_row_are_refused(tmp_path):
    (tmp_path / "bad.jsonl").write_text("{nothing\n[1]\n")
    with pytest.raises(DataError, match="holds no row"):
        profile(open_stream([str(tmp_path / "bad.jsonl")]))
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n3,4\n")
    with pytest.raises(DataError, match=r"(?s)holds no texts to learn from.*--text"):
        report([str(tmp_path / "numbers.csv")])


def test_columns_and_reading_may_be_said(tmp_path):
    path = tmp_path / "odd.dat"
    path.write_bytes(gzip.compress(b"a long text of some words\tmore words than that one\n" * 4))
    facts = report([str(path)], reading=Reading(format="tsv", columns=["one", "two"]), text=["two"])
    assert (facts["task"]["name"], facts["task"]["values"]["data.text"]["value"]) == ("causal", "two")
    with pytest.raises(DataError, match="did you mean 'two'"):
        report([str(path)], reading=Reading(format="tsv", columns=["one", "two"]), text=["twu"])


def test_the_command_writes_a_page_or_prints_json(orders, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(root, ["data", "report", "orders.csv"], catch_exceptions=False)
    assert done.exit_code == 0
    assert "classification (one label)" in done.output
    assert (tmp_path / "report.html").read_text().startswith("<!doctype html>")
    (tmp_path / "report.html").unlink()
    printed = CliRunner().invoke(root, ["data", "report", "orders.csv", "--json"], catch_exceptions=False)
    assert json.loads(printed.stdout)["rows"]["usable"] == 10
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "one.csv").write_text("text,label\nall of one class,a\nand the second,a\n")
    done = CliRunner().invoke(root, ["data", "report", "one.csv", "--label", "label", "--quality", "--sheet", "x"], catch_exceptions=False)
    assert "sheet is not read" in done.stderr
    assert "not seen  quality of labels: every row has the label 'a'" in done.stdout
    refused = CliRunner().invoke(root, ["data", "report", "orders.csv", "--out", "orders.csv"])
    assert "is one of the files" in str(refused.exception)
    refused = CliRunner().invoke(root, ["data", "report", "orders.csv", "--out", "orders.csv/page.html"])
    assert isinstance(refused.exception, SpaceError)
    refused = CliRunner().invoke(root, ["data", "report", "orders.csv", "--text", "text", "--label", "text"])
    assert "is the column of texts and of labels" in str(refused.exception)


def test_words_that_give_the_label_away_are_told(write_csv):
    rows = [[f"zq {t} {i}" if i % 2 else f"{t} {i}", "bad" if i % 2 else "good"] for i in range(40) for t in TEXTS[:1]]
    facts = report([str(write_csv("planted.csv", ["text", "label"], rows))])
    (found,) = [q for q in facts["quality"] if q["kind"] == "shortcut"]
    assert any("'zq' gives away bad" in f["reason"] and f["of"] == 20 for f in found["first"])
    assert any("--quality" in line for line in facts["not_looked"])
