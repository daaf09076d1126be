"""Judging in the terminal, by a pipe and by a real one, and what comes out of it."""

from __future__ import annotations

import json
import os
import pty
import select
import threading
from pathlib import Path

import pytest
from click.testing import CliRunner

from luthier.cli.main import root
from luthier.errors import LuthierError
from luthier.feedback import Store
from luthier.workflow import answers
from luthier.workflow.answers import Author, read_prompts
from tests import tiny


@pytest.fixture(scope="module")
def writers(tmp_path_factory):
    """Two tiny models that write at random."""
    folder = tmp_path_factory.mktemp("writers")
    tiny.save("llama", folder / "one")
    tiny.save("llama", folder / "two", num_hidden_layers=1)
    return folder


@pytest.fixture
def say(tmp_path, monkeypatch, writers):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "prompts.txt").write_text("the film\n\na meal\nthe room was\nthe film\nthe book\n")

    def run(*arguments, keys=None):
        return CliRunner().invoke(root, ["feedback", *map(str, arguments)], input=keys)

    return run


def rate(writers, *more):
    return [writers / "one", "--prompts", "prompts.txt", "--max-new-tokens", "6", "--temperature", "2", *more]


def test_verdicts_are_kept_corrected_and_not_asked_again(say, writers, monkeypatch):
    told = say(*rate(writers, "--annotator", "ada"), keys="1\n?\nt\nb\n2\ne\n1\nwarm and bright\n.\n")
    assert told.exit_code == 0, told.exception
    assert "judged    3 now, by ada" in told.output
    assert "1 to go" in told.output
    assert "'?' is no key" in told.output
    assert "you said: tie" in told.output
    with Store("feedback.db", create=False) as store:
        ada = store.entries()
        assert [e.kind for e in ada] == ["choice", "choice", "edit"]
        assert ada[0].payload["picked"] == ada[0].payload["order"][0]
        assert ada[1].payload["picked"] == ada[1].payload["order"][1]
        assert ada[2].payload["text"] == "warm and bright"
        assert len(store.entries(history=True)) == 4
    monkeypatch.setattr(Author, "write", lambda *_: pytest.fail("the answers are in the store"))
    rest = say(*rate(writers, "--annotator", "ada"), keys="s\n")
    assert "judged    1 now, 3 before, by ada" in rest.output
    both = say(*rate(writers, "--annotator", "bob"), keys="1\n1\n2\nt\n")
    assert "agreement choice  " in both.output
    with Store("feedback.db", create=False) as store:
        assert {e.item for e in store.entries(annotator="bob")} == {e.item for e in store.entries(annotator="ada")}
    stats = json.loads(say("stats", "--json").output)
    assert [p["annotator"] for p in stats["people"]] == ["ada", "bob"]
    out = say("export", "rows.jsonl", "--annotator", "ada")
    assert "3 rows from 3 of 4 judgements" in out.output
    assert "1 left out: skipped" in out.output
    assert json.loads(Path("rows.jsonl").read_text().splitlines()[-1])["chosen"] == "warm and bright"


def test_two_models_are_compared_by_what_people_like(say, writers):
    told = say(*rate(writers, "--against", writers / "two", "--annotator", "ada"), keys="1\n" * 4)
    assert told.exit_code == 0, told.exception
    with Store("feedback.db", create=False) as store:
        names = {name for source in store.sources().values() for name in source["models"]}
    assert names == {str(writers / "one"), str(writers / "two")}
    assert "liked     " in say("stats").output


def test_a_pair_that_cannot_be_judged_is_counted(say, writers, monkeypatch):
    words = {"the film": ("same", "same"), "a meal": ("", "x"), "the room was": ("x", "y\x1b[31m"), "the book": ("x", "z")}

    def write(self, prompts, wishes):
        return ["has no room" if p == "the book" else [answers.Written(w, "stop") for w in words[p]] for p in prompts]

    monkeypatch.setattr(Author, "write", write)
    told = say(*rate(writers), keys="1\n")
    for line in (
        "1 left out: the two answers are the same",
        "1 left out: an answer is empty",
        "1 left out: cannot be answered: has no room",
    ):
        assert line in told.output
    assert "\x1b[31m" not in told.output
    words["the room was"] = ("", "")
    none = say(*rate(writers, "--store", "other.db"), keys="1\n")
    assert "no pair to judge in 4 prompts" in str(none.exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["MODEL", "--prompts", "prompts.txt", "--temperature", "0"], "the same at temperature 0"),
        (["MODEL", "--prompts", "none.txt"], "no such file"),
        (["MODEL", "--prompts", "empty.jsonl"], "holds no prompts"),
        (["MODEL", "--prompts", "other.jsonl"], "no column of prompts"),
        (["MODEL", "--prompts", "prompts.txt", "--annotator", "  "], "no name"),
        (["nobody", "--prompts", "prompts.txt"], "no run"),
        (["export", "none.db", "out.jsonl"], "no such store"),
        (["stats", "prompts.txt"], "no store"),
    ],
)
def test_wrong_inputs_are_refused_in_a_line_with_a_remedy(say, writers, tmp_path, arguments, message):
    (tmp_path / "empty.jsonl").write_text('{"prompt": ""}\n')
    (tmp_path / "other.jsonl").write_text('{"colour": "red"}\n')
    told = say(*[writers / "one" if a == "MODEL" else a for a in arguments])
    assert isinstance(told.exception, LuthierError), (told.output, told.exception)
    assert message in str(told.exception)
    assert told.exception.fault.remedy
    assert not (tmp_path / "out.jsonl").exists()


def test_a_command_that_was_misspelt_is_guessed(say):
    assert "did you mean luthier feedback export" in say("exprot").output


def test_prompts_are_texts_or_messages_up_to_the_answer(tmp_path):
    path = tmp_path / "p.jsonl"
    asked = [{"role": "user", "content": "hi"}]
    rows = [{"messages": [*asked, {"role": "assistant", "content": "x"}]}, {"messages": asked}, {"messages": []}]
    path.write_text("\n".join(map(json.dumps, rows)))
    found = read_prompts(path)
    assert found.prompts == [asked]
    assert [note.split(": ")[1] for note in found.notes] == ["1 left out"] * 2


def test_keys_of_a_terminal_count_also_whenpressed_early_and_a_closed_one_ends_it():
    from luthier.cli.keys import Closed, pressed

    ours, theirs = pty.openpty()
    os.write(ours, b"1t\x04")
    select.select([theirs], [], [], 5)
    assert [pressed(theirs), pressed(theirs)] == ["1", "t"]
    with pytest.raises(Closed):
        pressed(theirs)
    threading.Timer(0.2, os.close, [ours]).start()
    with pytest.raises(Closed):
        pressed(theirs)
    os.close(theirs)
