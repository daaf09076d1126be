"""The folder that `luthier data clean` and `split` write: whole or not at all, resumed after a kill, and true to its input."""

from __future__ import annotations

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from luthier.cli.data_command import command
from luthier.data import clean as cleaning
from luthier.data.clean import clean
from luthier.data.close import Closeness
from luthier.data.leakage import Held
from luthier.data.rows import read
from luthier.data.sharing import Plan, held_out, moment_of, share
from luthier.data.sources import source
from luthier.data.stream import open_stream
from luthier.errors import DataError, RunError, SpaceError
from tests.data.test_stages import long_text, stages

DATA = Path(os.environ.get("LUTHIER_DATA", Path(__file__).parents[3] / "shared" / "data"))


def write_rows(path, count=300, seed=0):
    draw = random.Random(seed)
    rows = [{"text": long_text(draw, 12), "label": "abc"[i % 3], "n": i} for i in range(count)]
    rows += [{**rows[i], "text": rows[i]["text"].upper()} for i in range(0, count, 10)]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return rows


def contents(folder):
    return {p.name: p.read_bytes() for p in sorted(folder.iterdir())}


STAGES = ["whitespace", {"type": "length", "at_least": 2}, "duplicates", "near_duplicates"]


@pytest.mark.parametrize("kind", ["parquet", "arrow", "jsonl", "csv"])
@pytest.mark.skipif(not (DATA / "dirty_strings").is_dir(), reason="no dirty_strings in $LUTHIER_DATA")
def test_515_strings_pass_unchanged_where_cleaning_is_off(tmp_path, kind):
    strings = json.loads((DATA / "dirty_strings" / "blns.json").read_text(encoding="utf-8"))
    assert len(strings) == 515
    done = clean(open_stream([str(DATA / "dirty_strings" / "blns.json")]), [], tmp_path / "out", format=kind)
    assert done.books.kept == 515
    path = tmp_path / "out" / f"blns.{kind}"
    if kind != "arrow":
        assert [r.values["text"] for r in read(path).rows] == strings
    again = clean(open_stream([str(path)]), [], tmp_path / "again", format=kind)
    assert again.books.kept == 515
    assert (tmp_path / "again" / path.name).read_bytes() == path.read_bytes()


def test_what_is_killed_goes_on_and_ends_the_same(tmp_path, monkeypatch):
    """Stopped after every batch of every leg in turn, the folder is the same to the byte."""
    monkeypatch.setattr(source, "BATCH_ROWS", 60)
    write_rows(tmp_path / "a.jsonl")
    stream = open_stream([str(tmp_path / "a.jsonl")])
    whole = clean(stream, stages(*STAGES), tmp_path / "whole", format="jsonl")
    assert whole.resumed == 0
    assert not (tmp_path / ".whole.work").exists()
    real, stops = cleaning._keep, 0

    class Killed(BaseException):
        pass

    while True:
        made = 0

        def keep(*arguments, **options):
            nonlocal made
            if made == 1:
                raise Killed
            real(*arguments, **options)
            made += 1

        monkeypatch.setattr(cleaning, "_keep", keep)
        try:
            done = clean(stream, stages(*STAGES), tmp_path / "out", format="jsonl")
        except Killed:
            assert not (tmp_path / "out").exists()
            stops += 1
        else:
            break
    assert stops >= 15
    assert done.resumed >= 17
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert not (tmp_path / ".out.work").exists()


def test_a_torn_batch_is_made_again_and_other_input_starts_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(source, "BATCH_ROWS", 60)
    rows = write_rows(tmp_path / "a.jsonl")
    stream = open_stream([str(tmp_path / "a.jsonl")])
    whole = clean(stream, [], tmp_path / "whole", format="jsonl")
    monkeypatch.setattr(cleaning, "new_folder", lambda target: (_ for _ in ()).throw(SpaceError("full")))
    with pytest.raises(SpaceError):
        clean(stream, [], tmp_path / "out", format="jsonl")
    monkeypatch.undo()
    monkeypatch.setattr(source, "BATCH_ROWS", 60)
    place = tmp_path / ".out.work" / "0"
    (place / "done").unlink()
    (place / "00000003.arrow").write_bytes(b"ARROW1")
    assert clean(stream, [], tmp_path / "out", format="jsonl").resumed == 3
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    assert whole.books.kept == len(rows)


def test_two_processes_do_not_write_one_folder(tmp_path):
    write_rows(tmp_path / "a.jsonl", 10)
    stream = open_stream([str(tmp_path / "a.jsonl")])
    with cleaning._workplace(tmp_path / "out", "other"), pytest.raises(RunError, match="another process"):
        clean(stream, [], tmp_path / "out")
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("x")
    with pytest.raises(SpaceError, match="not empty"):
        clean(stream, [], tmp_path / "out")
    assert contents(tmp_path / "out") == {"mine": b"x"}


def start(folder, *arguments, **options):
    return subprocess.Popen(
        [sys.executable, "-m", "luthier.cli.main", "data", "clean", *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def test_a_full_disk_is_told_and_nothing_half_written(tmp_path):
    write_rows(tmp_path / "a.jsonl", 3000)
    before = (tmp_path / "a.jsonl").read_bytes()

    def small():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))

    process = start(tmp_path, "a.jsonl", "--out", "out", preexec_fn=small)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "cannot be written" in error
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()
    assert (tmp_path / "a.jsonl").read_bytes() == before
    process = start(tmp_path, "a.jsonl", "--out", "out")
    process.communicate(timeout=120)
    assert process.returncode == 0
    assert pq.read_metadata(tmp_path / "out" / "a.parquet").num_rows == 3300


@pytest.mark.slow
def test_kill_minus_nine_loses_nothing(tmp_path):
    """A process killed at random moments until it is through, against one that was not."""
    write_rows(tmp_path / "a.jsonl", 60_000)
    arguments = [
        "a.jsonl",
        "--to",
        "jsonl",
        *[a for s in ("unicode", "whitespace", "duplicates", "near_duplicates") for a in ("--stage", s)],
    ]
    assert start(tmp_path, *arguments, "--out", "whole").wait() == 0
    draw = random.Random(0)
    for _ in range(40):
        process = start(tmp_path, *arguments, "--out", "out")
        time.sleep(draw.uniform(0.5, 6))
        process.send_signal(signal.SIGKILL)
        if process.wait() == 0:
            break
    else:
        assert start(tmp_path, *arguments, "--out", "out").wait() == 0
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


def test_the_command_shows_how_files_were_read_and_what_became_of_rows(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_bytes("﻿text;label\n<b>one</b> row;x\none row;x\nbad\n".encode())
    ran = CliRunner().invoke(
        command, ["clean", "a.csv", "--stage", "markup columns=[text]", "--stage", "duplicates", "--to", "csv", "--out", "out"]
    )
    assert ran.exit_code == 0, ran.output
    assert "a.csv: csv, utf-8 with a byte-order mark, fields separated by semicolons" in ran.output
    assert "3 rows read: 1 kept (1 of them changed), 1 dropped, 1 quarantined" in ran.output
    assert Path("out/a.csv").read_text() == "text,label\none row,x\n"
    report = json.loads(Path("out/report.json").read_text())
    assert report["rows"]["read"] == 3
    assert [s["type"] for s in report["stages"]] == ["markup", "duplicates"]
    assert report["sources"][0]["encoding"] == "utf-8 with a byte-order mark"
    Path("recipe.yaml").write_text("data: {train: a.csv, clean: [markup]}\n")
    ran = CliRunner().invoke(command, ["clean", "a.csv", "--recipe", "recipe.yaml", "--out", "more", "--json"])
    assert json.loads(ran.stdout)["rows"]["stages"]["1 markup"]["changed"] == 1
    ran = CliRunner().invoke(command, ["clean", "a.csv", "--stage", "lenght", "--out", "no"])
    assert "did you mean length" in str(ran.exception)


def parts_of(folder, column="text"):
    return {p.stem: [r.values[column] for r in read(p).rows] for p in folder.glob("*.csv")}


def test_a_split_survives_reordering_and_new_rows(tmp_path):
    rows = write_rows(tmp_path / "a.jsonl")
    plan = Plan(by="stratified", column="label")
    share(open_stream([str(tmp_path / "a.jsonl")]), plan, tmp_path / "one", format="csv")
    first = parts_of(tmp_path / "one")
    assert {p: len(t) for p, t in first.items()} == {"train": 231, "validation": 33, "test": 66}
    sides = {}
    for part, texts in first.items():
        for text in texts:
            assert sides.setdefault(text.lower(), part) == part  # near duplicates on one side
    random.Random(1).shuffle(rows)
    (tmp_path / "b.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    share(open_stream([str(tmp_path / "b.jsonl")]), plan, tmp_path / "two", format="csv")
    assert {p: sorted(t) for p, t in parts_of(tmp_path / "two").items()} == {p: sorted(t) for p, t in first.items()}
    new = [{"text": long_text(random.Random(5), 12), "label": "a", "n": 0} for _ in range(5)]
    new += [{**r, "text": r["text"] + " more"} for r in rows if r["text"] in first["test"]][:5]
    (tmp_path / "c.jsonl").write_text("".join(json.dumps(r) + "\n" for r in new + rows[:200]))
    kept = Plan(by="stratified", column="label", seed=9, saved=tmp_path / "one" / "split.jsonl")
    share(open_stream([str(tmp_path / "c.jsonl")]), kept, tmp_path / "three", format="csv")
    again = parts_of(tmp_path / "three")
    for part, texts in again.items():
        assert all(sides.get(t.lower(), part) == part for t in texts)
    assert all(r["text"] in again["test"] for r in new[5:])  # beside a row that is tested


def test_questions_about_one_passage_stay_on_one_side(tmp_path):
    draw = random.Random(0)
    passages = [long_text(draw, 20) + "." for _ in range(40)]
    rule = "Read what follows with care and say in one short sentence what the question asks for. "
    rows = [f"{rule}Asked {long_text(draw, 15)}?\n{passages[i % 40]} {long_text(draw, 9)}." for i in range(400)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in rows))
    done = share(open_stream([str(tmp_path / "a.jsonl")]), Plan(), tmp_path / "out", format="csv")
    sides = {}
    for part, texts in parts_of(tmp_path / "out").items():
        for text in texts:
            passage = next(p for p in passages if p in text)
            assert sides.setdefault(passage, part) == part
    assert set(sides.values()) == {"train", "validation", "test"}  # the rule, which all have, links none
    assert done.groups == 40


def test_groups_times_and_shares(tmp_path):
    draw = random.Random(0)
    days = [f"2024-0{draw.randint(1, 9)}-{draw.randint(10, 28)}" for _ in range(200)]
    rows = [{"text": long_text(draw, 12), "who": f"p{i % 20}", "day": days[i]} for i in range(200)] + [
        {"text": "when", "who": "p", "day": "soon"}
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    stream = open_stream([str(tmp_path / "a.jsonl")])
    share(stream, Plan(by="grouped", column="who"), tmp_path / "g", format="csv")
    owners = parts_of(tmp_path / "g", "who")
    assert not set(owners["train"]) & set(owners["test"])
    assert not set(owners["train"]) & set(owners["validation"])
    done = share(stream, Plan(by="time", column="day"), tmp_path / "t", format="csv")
    times = parts_of(tmp_path / "t", "day")
    assert max(times["train"]) < min(times["validation"]) <= max(times["validation"]) < min(times["test"])
    assert abs(len(times["test"]) - 40) <= 4
    assert done.books.total("quarantined") == 1
    for plan in (Plan(by="grouped"), Plan(column="who"), Plan(by="time", column="dya"), Plan(test=0.6, validation=0.4)):
        with pytest.raises(DataError):
            share(stream, plan, tmp_path / "no")
    assert not (tmp_path / "no").exists()
    assert [moment_of(cell) for cell in ("nan", "-inf", float("inf"), float("nan"), True, " 7 ")] == [None, None, None, None, None, 7.0]


def test_what_means_the_same_stays_on_one_side_where_near_words_are_not_compared(tmp_path):
    rows = [{"text": f"{'ab'[i % 2]} {i}"} for i in range(20)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    meant = Closeness(lambda texts: np.array([[t[0] == "a", t[0] == "b"] for t in texts], np.float32), 0.9)
    plan = Plan(near=None, close=meant, test=0.5, validation=0)
    assert share(open_stream([str(tmp_path / "a.jsonl")]), plan, tmp_path / "out", format="csv").groups == 2
    sides = parts_of(tmp_path / "out")
    assert {len({text[0] for text in texts}) for texts in sides.values()} == {1}


def test_what_is_tested_elsewhere_is_removed_or_refused(tmp_path):
    draw = random.Random(0)
    tested = [long_text(draw, 25) for _ in range(20)]
    swapped = tested[1].split()
    swapped[8], swapped[17] = swapped[17], swapped[8]
    leaks = [
        tested[0].upper(),
        " ".join(swapped),
        "before " + " ".join(tested[2].split()[:13]) + " after " * 20,
        long_text(draw, 9) + " the whole of a short one",
    ]
    tested.append("The whole of a short one")
    clear = [long_text(draw, 25) for _ in range(60)] + [" ".join(tested[3].split()[:12]) + " and other words follow" * 5]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in leaks + clear))
    (tmp_path / "test.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in tested))
    stream = open_stream([str(tmp_path / "a.jsonl")])
    held = held_out(open_stream([str(tmp_path / "test.jsonl")]), text=["text"])
    assert list(held.leaks(leaks + clear)) == [0, 1, 2, 3]
    assert [why.split(":")[0] for why in held.leaks(leaks).values()] == [
        "the same as", "nearly the same as", "shares 13 words in a row with", "holds the whole of",
    ]  # fmt: skip
    plan = Plan(test=0.0, validation=0.1)
    done = share(stream, plan, tmp_path / "out", held=held)
    assert done.books.total("dropped") == 4
    assert json.loads((tmp_path / "out" / "report.json").read_text())["split"]["leaks"] == 4
    with pytest.raises(DataError, match="4 of 65 rows for training stand in what is tested"):
        share(stream, Plan(test=0.0, leaks="refuse"), tmp_path / "no", held=held)
    assert not (tmp_path / "no").exists()
    assert not Held().leaks(leaks)


@pytest.mark.skipif(not (DATA / "symptom2disease").is_dir(), reason="no symptom2disease in $LUTHIER_DATA")
def test_symptoms_have_47_repeats_which_stay_on_one_side(tmp_path):
    file = str(DATA / "symptom2disease" / "Symptom2Disease.csv")
    assert clean(open_stream([file]), stages("duplicates"), tmp_path / "out").books.total("dropped") == 47
    share(open_stream([file]), Plan(by="stratified", column="label"), tmp_path / "split", format="csv")
    sides = {}
    for part, texts in parts_of(tmp_path / "split").items():
        for text in texts:
            assert sides.setdefault(" ".join(text.casefold().split()), part) == part
    assert len(sides) == 1200 - 47


def test_the_split_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_rows(Path("a.jsonl"), 100)
    ran = CliRunner().invoke(command, ["split", "a.jsonl", "--by", "stratified", "--column", "label", "--out", "out", "--json"])
    assert ran.exit_code == 0, ran.output
    assert json.loads(ran.stdout)["files"] == {"train.parquet": 77, "validation.parquet": 11, "test.parquet": 22}
    for more in (
        ["--near", "1"],
        ["--seed", "3"],
        ["--validation", "0"],
        ["--test", "0.4"],
        ["--keep-to", "out/split.jsonl", "--seed", "3"],
    ):
        ran = CliRunner().invoke(command, ["split", "a.jsonl", *more, "--out", "-".join(more).replace("/", "")])
        assert ran.exit_code == 0, ran.output
    held = {p.name: p.joinpath("split.jsonl").read_bytes() for p in Path().iterdir() if p.is_dir()}
    assert held["out"] == held["--keep-to-outsplit.jsonl---seed-3"]
    assert len(set(held.values())) >= 4
    Path("held.jsonl").write_text(Path("a.jsonl").read_text().splitlines()[0] + "\n")
    ran = CliRunner().invoke(command, ["split", "a.jsonl", "--against", "held.jsonl", "--leaks", "refuse", "--out", "no"])
    assert isinstance(ran.exception, DataError)
    ran = CliRunner().invoke(command, ["split", "a.jsonl", "--against", "held.jsonl", "--run", "3", "--test", "0", "--out", "removed"])
    assert "leak: " in ran.output


def test_a_stage_that_finds_no_column_since_no_row_was_read_says_where_to_look(tmp_path):
    (tmp_path / "a.jsonl").write_text("[1]\nno\n")
    for stage in ("duplicates", "privacy"):
        with pytest.raises(DataError, match="no row could be read; luthier data report says why"):
            clean(open_stream([str(tmp_path / "a.jsonl")]), stages(stage), tmp_path / "out")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_rows_and_fates_do_not_share_a_file(tmp_path, kind):
    (tmp_path / "fates.jsonl").write_text('{"text": "a"}\n{"text": "a"}\n')
    done = clean(open_stream([str(tmp_path / "fates.jsonl")]), stages("duplicates"), tmp_path / "out", format=kind)
    assert [r.values for r in read(tmp_path / "out" / next(iter(done.files))).rows] == [{"text": "a"}]
    assert [json.loads(line)["outcome"] for line in (tmp_path / "out" / "fates.jsonl").read_text().splitlines()] == ["dropped"]


def test_options_that_mean_nothing_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a.csv").write_text("body,label\n" + "".join(f"row {i},a\n" for i in range(20)))
    Path("test.csv").write_text("text\nrow 1\n")
    for arguments, told in (
        (["split", "--model", "minilm"], "--model is not read without --close"),
        (["split", "--run", "5"], "--run is not read without --against"),
        (["split", "--by", "time", "--column", "body", "--seed", "1"], "--seed is not read with --by time"),
        (["split", "--text", "bodi"], "--text: no column 'bodi'"),
        (["split", "--text", "body", "--against", "test.csv"], "--against: no column 'body'"),
        (["clean", "--text", "body,bodi", "--stage", "duplicates"], "--text: no column 'bodi'"),
        (["clean", "--stage", "length at_least=[3"], "'[3' is no value"),
        (["clean", "--stage", "length 'at"], "No closing quotation"),
        (["clean", "--separator", "\\"], "a backslash itself is written"),
    ):
        ran = CliRunner().invoke(command, [arguments[0], "a.csv", *arguments[1:], "--out", "no"])
        assert ran.exit_code, arguments
        assert told in f"{ran.output}{ran.exception}"
        assert not Path("no").exists()
