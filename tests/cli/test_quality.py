"""`luthier data quality`: findings in words, a table for relabelling, a mended copy with every row's fate; faults in one line."""

from __future__ import annotations

import csv
import json

import pytest
from click.testing import CliRunner

from luthier.cli.main import main, root
from luthier.errors import SpaceError
from tests import tiny


def run(*arguments: object):
    return CliRunner().invoke(root, ["data", "quality", *map(str, arguments)], catch_exceptions=False)


@pytest.fixture
def flawed(write_csv):
    """Rows with a copy under two labels, an empty text and a missing label."""
    rows = [[str(i), t, label] for i, (t, label) in enumerate(tiny.moods_rows(90))]
    rows += [["90", "lovely film", "positive"], ["91", "Lovely  film", "positive"], ["92", "lovely film", "negative"]]
    return write_csv("flawed.csv", ["id", "text", "mood"], [*rows, ["93", " ", "positive"], ["94", "a film", ""], ["95", "x"]])


def test_findings_relabelling_and_a_mended_copy(flawed, tiny_model, tmp_path):
    before = flawed.read_bytes()
    found = run(
        flawed, "--label", "mood", "--model", tiny_model, "--out", tmp_path / "out", "--relabel", "--kind", "inconsistent", "--to", "csv"
    )
    assert found.exit_code == 0, found.output
    assert "3 copies of 'lovely film' are labelled positive 2, negative 1" in found.output
    assert "96 rows read: 95 kept (1 of them changed), 0 dropped, 1 quarantined" in found.output
    assert "1 rows without a text are not looked at" in found.stderr
    assert flawed.read_bytes() == before
    told = [json.loads(line) for line in (tmp_path / "out" / "findings.jsonl").read_text().splitlines()]
    copies = next(f for f in told if f["kind"] == "inconsistent")
    assert [r["line"] for r in copies["rows"]] == [92, 93, 94]
    with (tmp_path / "out" / "relabel.csv").open(newline="") as file:
        row = next(r for r in csv.DictReader(file) if r["kind"] == "inconsistent")
    assert (row["row"], row["line"], row["text"], row["label"], row["suggested"]) == ("92", "94", "lovely film", "negative", "positive")
    with (tmp_path / "out" / "flawed.csv").open(newline="") as file:
        copy = list(csv.DictReader(file))
    with flawed.open(newline="") as file:
        original = [r for r in csv.DictReader(file) if r["mood"] is not None]
    assert [r for r, o in zip(copy, original, strict=True) if r != o] == [{"id": "92", "text": "lovely film", "mood": "positive"}]
    fates = [json.loads(line) for line in (tmp_path / "out" / "fates.jsonl").read_text().splitlines()]
    assert sorted((f["line"], f["outcome"]) for f in fates) == [(94, "changed"), (97, "quarantined")]
    with pytest.raises(SpaceError, match="is there already and not empty"):
        run(flawed, "--label", "mood", "--model", tiny_model, "--out", tmp_path / "out")


def test_labels_that_are_numbers_stay_numbers(tiny_model, tmp_path):
    rows = [{"text": t, "label": ["negative", "neutral", "positive"].index(label)} for t, label in tiny.moods_rows(60)]
    rows += [{"text": "the same text", "label": 1}] * 2 + [{"text": "the same text", "label": 2}]
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    found = run(file, "--model", tiny_model, "--out", tmp_path / "out", "--drop", "--kind", "inconsistent", "--to", "jsonl", "--json")
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["rows"] == 63
    written = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    assert written == rows[:-1]


@pytest.mark.parametrize(
    ("rows", "options", "told"),
    [
        ([["a b", "x"], ["c d", "x"]], [], "every row has the label 'x'"),
        ([[f"text {i}", i] for i in range(9)], [], "fewer than two of them have 5 rows"),
        ([["", "x"], [" ", "y"]], [], "no row can be looked at"),
        ([["a b", ""], ["c d", ""]], [], "without a label"),
        ([["a b", "x"]], ["--label", "lable"], "did you mean 'label'"),
        ([["a b", "x"]], ["--text", "body"], "no column 'body'"),
        ([["a b", "x"]], ["--label", "text"], "is the column of texts and of labels"),
        ([["a b", "x"]], ["--drop"], "say where with --out"),
        ([["a b", "x"]], ["--kind", "trigger"], "--kind is not read without --drop or --relabel"),
    ],
)
def test_faults_are_told_in_words(rows, options, told, write_csv, capsys, monkeypatch):
    file = write_csv("rows.csv", ["text", "label"], rows)
    monkeypatch.setattr("sys.argv", ["luthier", "data", "quality", str(file), *options])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code
    assert told in capsys.readouterr().err


def test_no_column_of_labels(write_csv, capsys, monkeypatch):
    file = write_csv("rows.csv", ["text", "number"], [["a b", 1]])
    monkeypatch.setattr("sys.argv", ["luthier", "data", "quality", str(file)])
    with pytest.raises(SystemExit):
        main()
    assert "which column has the labels?" in capsys.readouterr().err
