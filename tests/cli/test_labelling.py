"""Labelling in the terminal, by a pipe and by a real one."""

from __future__ import annotations

import csv
import json
import os
import pty
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from luthier.cli.data import labelling
from luthier.cli.main import root
from luthier.errors import LuthierError
from luthier.feedback import Store
from tests import tiny


@pytest.fixture
def say(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "rows.csv").write_text("text,other\nAda saw Bob.,Bob saw Ada.\nI lost it,It is lost\nWhere \x1b[31mis it?,Here\n")
    (tmp_path / "guide.md").write_text("# What counts\n\n" + "".join(f"* rule {i}\n" for i in range(60)))

    def run(*arguments, keys=None):
        return CliRunner().invoke(root, ["data", "label", *map(str, arguments)], input=keys)

    return run


def payloads(history=False):
    with Store("feedback.db", create=False) as store:
        return [e.payload for e in store.entries(history=history)]


def test_classes_by_keys_and_names_back_skip_and_again(say):
    label = ("rows.csv", "--labels", "card,lost", "--pick", "order", "--annotator", "ada")
    told = say(*label, "--guidelines", "guide.md", keys="1\nb\n9\nlo\nx\ng\ns\nq\n")
    assert told.exit_code == 0, told.exception
    for line in ("you said: card", "there are labels 1 to 2", "no label 'x'", "rule 59", "labelled  2 now, by ada", "1 to go"):
        assert line in told.output
    assert [p.get("skipped", p["labels"]) for p in payloads()] == [["lost"], True]
    assert len(payloads(history=True)) == 3
    rest = say(*label, keys="card\n")
    assert "\x1b[31m" not in rest.output
    assert "labelled  1 now, 2 before" in rest.output
    assert "luthier data label export feedback.db rows.jsonl" in rest.output
    assert say(*label).output.count("labelled  0 now, 3 before") == 1


def test_several_people_from_labels_to_rows(say):
    label = ("rows.csv", "--labels", "a,b,c", "--pick", "order")
    for name, keys in (("ada", "1\n1\n1\n"), ("bob", "1\n2\n1\n"), ("cyd", "1\n3\n2\n")):
        assert say(*label, "--annotator", name, keys=keys).exit_code == 0
    stats = say("stats").output
    assert "3 rows: 1 agreed, 1 tie, 1 majority" in stats
    for line in ("Fleiss' kappa", "Krippendorff's alpha", "Cohen's kappa", "labels    ada: a 100%"):
        assert line in stats
    assert json.loads(say("stats", "--json").output)["how"] == {"agreed": 1, "tie": 1, "majority": 1}
    out = say("export", "rows-1.csv")
    assert "2 of 3 rows (1 agreed, 1 majority)" in out.output
    assert "1 left out: a tie" in out.output
    decided = say("adjudicate", "--annotator", "eve", "--labels", "d", keys="s\nb\nd\n1\n")
    for line in ("ada: a", "bob: b", "cyd: c", "4 d", "decided   2 of 2"):
        assert line in decided.output
    say("export", "rows-2.csv")
    with open("rows-2.csv", newline="") as file:
        assert {r["label"] for r in csv.DictReader(file)} == {"a", "d"}
    for tool in ("label-studio", "argilla"):
        assert say("export", f"{tool}.json", "--as", tool).exit_code == 0
        assert "brought   11 labels of 3 tasks" in say("import", f"{tool}.json", "--store", f"{tool}.db").output
        assert "3 rows: 2 adjudicated, 1 agreed" in say("stats", f"{tool}.db").output


def test_spans_by_words(say):
    told = say(
        "rows.csv", "--as", "spans", "--labels", "person,thing", "--annotator", "ada",
        keys="1 pers, 3 2\n1-2 thing\n9 thing\nnonsense\nu\n3 1\n.\n.\nb\n.\nq\n",
    )  # fmt: skip
    assert told.exit_code == 0, told.exception
    for line in ("1·Ada [person]", "3·Bob [thing]", "words 1-2 have a label already", "there are words 1 to 4", "is no span"):
        assert line in told.output
    first, second = payloads()
    assert [(s["start"], s["end"], s["label"]) for s in first["spans"]] == [(0, 3, "person"), (8, 11, "person")]
    assert second["spans"] == []


def test_several_classes_texts_and_pairs(say):
    say("rows.csv", "--several", "--labels", "a,b", "--annotator", "ada", keys="1,b\n.\n2\n")
    assert [p["labels"] for p in payloads()] == [["a", "b"], [], ["b"]]
    say("rows.csv", "--as", "text", "--annotator", "ada", "--store", "t.db", keys="in a line\ne\nin\ntwo\n.\nb\n\nbetter\ns\n")
    with Store("t.db") as store:
        assert {e.payload["text"] for e in store.entries()} == {"in a line", "better", ""}
    told = say(
        "rows.csv",
        "--as",
        "pairs",
        "--pair",
        "other",
        "--annotator",
        "ada",
        "--store",
        "p.db",
        "--guidelines",
        "guide.md",
        keys="1\nt\n2\n",
    )
    assert "judged    3 now" in told.output
    assert "rule 1" in told.output
    with Store("p.db") as store:
        assert [e.kind for e in store.entries()] == ["choice"] * 3
    both = say("rows.csv", "--pair", "other", "--labels", "same,other", "--pick", "order", "--store", "both.db", keys="1\n")
    assert "It is lost" in both.output or "Bob saw Ada." in both.output
    say("export", "both.db", "both.jsonl")
    assert json.loads(Path("both.jsonl").read_text()) == {"text": "Ada saw Bob.", "text_pair": "Bob saw Ada.", "label": "same"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.csv", "--labels", "a,b"], "no such file"),
        (["rows.csv"], "which labels"),
        (["rows.csv", "--labels", "a,a"], "twice"),
        (["rows.csv", "--labels", "labels.txt"], "no such file"),
        (["rows.csv", "--labels", "a,b", "--column", "txt"], "did you mean 'text'"),
        (["rows.csv", "--labels", "a,b", "--guidelines", "none.md"], "cannot be read"),
        (["rows.csv", "--labels", "a,b", "--annotator", " "], "no name"),
        (["rows.csv", "--as", "pairs"], "two columns"),
        (["stats", "none.db"], "no such store"),
        (["stats", "empty.db"], "nobody has labelled"),
        (["export", "labelled.db", "out.csv", "--annotator", "adda"], "did you mean ada"),
        (["export", "labelled.db", "out.txt"], "format"),
        (["export", "labelled.db", "rows.csv"], "is there already"),
        (["export", "labelled.db", "out.csv", "--question", "mood"], "no question 'mood'"),
        (["import", "guide.md"], "not JSON"),
    ],
)
def test_wrong_inputs_are_refused_in_a_line_with_a_remedy(say, arguments, message):
    Store("empty.db").close()
    with Store("labelled.db") as store:
        store.append("label", {"text": "x"}, annotator="ada", payload={"labels": ["a"]})
    before = Path("rows.csv").read_text()
    told = say(*arguments, keys="1\n")
    assert isinstance(told.exception, LuthierError), (told.output, told.exception)
    assert message in str(told.exception)
    assert told.exception.fault.remedy
    assert Path("rows.csv").read_text() == before


@pytest.mark.parametrize(
    "options",
    [
        ("--as", "spans", "--labels", "a", "--pick", "margin"),
        ("--several", "--labels", "a,b", "--pick", "entropy"),
        ("--as", "text", "--labels", "a"),
        ("--labels", "a,b", "--prompt", "other"),
        ("--as", "spans", "--labels", "a", "--pair", "other"),
        ("--as", "pairs", "--pair", "other", "--pick", "random"),
        ("--as", "pairs", "--pair", "other", "--overlap", "0.5"),
        ("--labels", "a,b", "--pick", "order", "--model", "minilm"),
    ],
)
def test_an_option_that_nobody_would_read_is_refused(say, options):
    told = say("rows.csv", *options, keys="1\n")
    assert told.exit_code == 2
    assert "--as" in told.output or "--pick" in told.output
    assert not Path("feedback.db").exists()


def test_the_ways_of_picking_are_those_there_are():
    from luthier.cli.data.label_rows import DOUBTFUL, PICKS
    from luthier.workshop.labelling.picking import DOUBTS, STRATEGIES

    assert set(DOUBTFUL) == set(DOUBTS)
    assert set(PICKS) == {*STRATEGIES, "order"}


def test_rows_are_picked_by_the_vectors_of_a_model(say, tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    tiny.save("bert", tmp_path / "model")
    label = ("rows.csv", "--labels", "a,b", "--model", "model", "--batch", "1", "--overlap", "0")
    told = say(*label, keys="1\n2\n")
    assert told.exit_code == 0, told.exception
    assert "labelled  2 now" in told.output
    monkeypatch.setattr("luthier.workflow.similar.Embedder.vectors", lambda *_: pytest.fail("they are kept"))
    assert "labelled  1 now, 2 before" in say(*label, keys="1\n").output


def test_a_command_that_was_misspelt_is_guessed(say):
    assert "did you mean luthier data label adjudicate" in say("adjudicat").output


@pytest.mark.parametrize("width", [80, 140])
def test_keys_of_a_terminal_beside_the_guidelines(say, monkeypatch, width, capsys):
    ours, theirs = pty.openpty()
    os.write(ours, b"1b2s\x04")
    monkeypatch.setattr(sys, "stdin", os.fdopen(theirs))
    shown = Console(width=width, height=30, force_terminal=False, highlight=False)
    monkeypatch.setattr(labelling, "Console", lambda **_: shown)
    root(
        ["data", "label", "rows.csv", "--labels", "a,b", "--pick", "order", "--annotator", "ada", "--guidelines", "guide.md"],
        standalone_mode=False,
    )
    os.close(ours)
    told = capsys.readouterr().out
    assert [p.get("skipped", p["labels"]) for p in payloads()] == [["b"], True]
    assert "you said: a" in told
    beside = [line for line in told.splitlines() if "Ada saw Bob." in line]
    assert ("rule" in beside[0] or "guidelines" in told.splitlines()[told.splitlines().index(beside[0]) - 1]) == (width == 140)
    assert ("more with g" in told) == (width == 140)
