"""The store: nothing is lost, nothing is changed, nothing foreign is touched."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import time

import pytest

from luthier.errors import DataError, LuthierError
from luthier.feedback import Said, Store, judged, training_rows
from luthier.feedback.schema import APPLICATION

WRITER = """
import sys
from luthier.feedback import Store, judged
with Store(sys.argv[1]) as store:
    for i in range(int(sys.argv[3])):
        store.append("choice", judged(f"q{i}", "a", "b"), annotator=sys.argv[2], payload={"picked": i % 2})
        print(i, flush=True)
"""


@pytest.fixture
def store(tmp_path):
    with Store(tmp_path / "feedback.db") as opened:
        yield opened


def test_what_is_said_is_read_by_kind_item_and_annotator(store):
    pair, text = judged("q", "b", "a"), {"text": "ada writes"}
    first = store.append("choice", pair, annotator="ada", payload={"picked": 0}, run="starter")
    store.append("choice", judged("q", "a", "b"), annotator="bob", payload={"picked": "tie"})
    store.append("label", text, annotator="ada", payload={"spans": [{"start": 0, "end": 3, "label": "name"}]})
    store.append("label", text, annotator="bob", payload={"labels": ["art"]})
    assert len(store.entries(item=first.item)) == 2, "the order of the answers makes no other item"
    assert [e.kind for e in store.entries(annotator="ada")] == ["choice", "label"]
    assert [e.annotator for e in store.entries(kind="label")] == ["ada", "bob"]
    assert store.entries(item=first.item, annotator="ada") == [first]
    assert store.contents()[first.item] == {"prompt": "q", "answers": ["a", "b"]}
    assert os.stat(store.path).st_mode & 0o077 == 0


def test_a_correction_supersedes_and_stays_readable(store):
    pair = judged("q", "a", "b")
    first = store.append("choice", pair, annotator="ada", payload={"picked": 0})
    second = store.append("choice", pair, annotator="ada", payload={"picked": 1})
    third = store.append("edit", pair, annotator="ada", payload={"text": "c", "of": 0}, supersedes=second.id)
    assert [e.supersedes for e in (first, second, third)] == [None, first.id, second.id]
    assert store.entries() == [third]
    assert store.entries(history=True) == [first, second, third]
    with pytest.raises(DataError, match="not what ada said last"):
        store.append("choice", pair, annotator="ada", payload={"picked": 0}, supersedes=first.id)
    again = store.extend([Said("edit", pair, "ada", {"of": 0, "text": "c"})])
    assert (again.entries, again.repeated) == ([third], 1)


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE entries SET annotator = 'eve'",
        "DELETE FROM entries",
        "UPDATE items SET content = '{}'",
        "DELETE FROM items",
        "DELETE FROM made",
        "INSERT OR REPLACE INTO entries SELECT id, 0, kind, item, 'eve', payload, run, supersedes FROM entries WHERE id = 1",
        "INSERT OR REPLACE INTO items SELECT item, 0, '{}' FROM items",
    ],
)
def test_the_tables_refuse_every_change_whoever_asks(store, statement):
    pair = judged("q", "a", "b")
    said = store.append("choice", pair, annotator="ada", payload={"picked": 0})
    store.keep("request", pair, source={})
    stranger = sqlite3.connect(store.path, isolation_level=None)
    with pytest.raises(sqlite3.IntegrityError, match="append-only"):
        stranger.execute(statement)
    stranger.close()
    assert store.entries(history=True) == [said]


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        ("choice", {"picked": 2}),
        ("choice", {"picked": True}),
        ("rating", {"rating": float("nan")}),
        ("rating", {"rating": "good"}),
        ("rating", {"rating": 10**400}),
        ("edit", {"text": " ", "of": 0}),
        ("label", {"spans": [{"start": 3, "end": 3, "label": "x"}]}),
        ("chioce", {"picked": 0}),
    ],
)
def test_what_says_nothing_is_refused_and_all_with_it(store, kind, payload):
    fine = Said("choice", judged("q", "a", "b"), "ada", {"picked": 0})
    with pytest.raises(DataError):
        store.extend([fine, fine._replace(kind=kind, payload=payload)])
    assert store.entries() == []
    assert store.contents() == {}


def test_several_processes_write_at_once_from_an_empty_file(tmp_path):
    path = tmp_path / "feedback.db"
    writers = [
        subprocess.Popen([sys.executable, "-c", WRITER, path, name, "30"], stdout=subprocess.DEVNULL) for name in ("ada", "bob", "cy")
    ]
    assert [w.wait() for w in writers] == [0, 0, 0]
    with Store(path, create=False) as store:
        assert len(store.entries()) == 90
        assert len(store.contents()) == 30


def test_a_killed_writer_loses_nothing_it_was_told_is_kept(tmp_path):
    path = tmp_path / "feedback.db"
    writer = subprocess.Popen([sys.executable, "-c", WRITER, path, "ada", "1000000"], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    while (line := writer.stdout.readline()) and int(line) < 25:
        pass
    os.kill(writer.pid, signal.SIGKILL)
    confirmed = [int(line), *map(int, filter(str.strip, writer.stdout.read().split("\n")))][-1]
    writer.wait()
    with Store(path, create=False) as store:
        kept = len(store.entries())
        assert confirmed + 1 <= kept <= confirmed + 2
        store.append("choice", judged("after", "a", "b"), annotator="ada", payload={"picked": 0})


def _sqlite(path, *statements):
    with sqlite3.connect(path) as database:
        for statement in statements:
            database.execute(statement)
    database.close()


def test_foreign_newer_and_broken_files_are_refused_and_left_alone(tmp_path):
    foreign, newer, text, folder = (tmp_path / n for n in ("foreign.db", "newer.db", "notes.txt", "folder"))
    _sqlite(foreign, "CREATE TABLE t (a)")
    _sqlite(newer, "CREATE TABLE t (a)", f"PRAGMA application_id = {APPLICATION}", "PRAGMA user_version = 9")
    text.write_text("not a database, but long enough to be read as one " * 40)
    folder.mkdir()
    cases = {foreign: "something else", newer: "newer Luthier", text: "no store", folder: "folder", tmp_path / "none.db": "no such store"}
    for path, message in cases.items():
        before = path.read_bytes() if path.is_file() else None
        with pytest.raises(LuthierError, match=message) as caught:
            Store(path, create=path != tmp_path / "none.db")
        assert caught.value.fault.remedy
        assert before is None or path.read_bytes() == before
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("text", "altered"), [(b'{"picked":0}', b'{"picked":0!'), (b'{"picked":0}', b'{"picke\xff":0}'), (b'"prompt"', b'"prompt!')]
)
def test_an_altered_store_is_told_to_be_damaged(text, altered, tmp_path):
    path = tmp_path / "feedback.db"
    with Store(path) as store:
        store.append("choice", judged("q", "a", "b"), annotator="ada", payload={"picked": 0})
    path.write_bytes(path.read_bytes().replace(text, altered))
    with Store(path) as store, pytest.raises(DataError, match="is damaged") as caught:
        training_rows(store, "pairs")
    assert "recover" in str(caught.value.fault.remedy)


def test_a_locked_store_says_so(store, monkeypatch):
    monkeypatch.setattr("luthier.feedback.store.WAIT", 0.05)
    stranger = sqlite3.connect(store.path, isolation_level=None)
    stranger.execute("BEGIN IMMEDIATE")
    begun = time.monotonic()
    with Store(store.path) as second, pytest.raises(DataError, match="locked"):
        second.append("choice", judged("q", "a", "b"), annotator="ada", payload={"picked": 0})
    stranger.close()
    assert time.monotonic() - begun < 20


def test_the_first_pair_made_on_a_request_is_what_everybody_sees(store):
    first = store.keep("request", judged("q", "a", "b"), source={"models": ["m", "m"]})
    assert store.keep("request", judged("q", "c", "d"), source={}) == first == store.made("request")
    assert store.made("another") is None


def test_the_room_needs_no_torch():
    told = "import sys, luthier.feedback, luthier.workflow.opinions, luthier.workflow.behaviour, luthier.workflow.answers; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", told], capture_output=True, text=True, check=True).stdout.strip() == "False"
