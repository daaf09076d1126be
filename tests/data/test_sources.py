"""Reading anything as a stream: every format, every fault told, nothing lost, memory bounded, originals untouched."""

from __future__ import annotations

import contextlib
import csv
import gzip
import io
import json
import os
import sqlite3
import stat
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.data import rows as plain_rows
from luthier.data.sources import documents, json_values, lines, opened
from luthier.data.sources.kinds import values
from luthier.data.sources.source import Reading
from luthier.data.stages.stage import LINE
from luthier.data.stream import open_stream
from luthier.errors import DataError

DATA = Path(os.environ.get("LUTHIER_DATA", Path(__file__).parents[3] / "shared" / "data"))
ROWS = [{"text": "a, b", "label": "x"}, {"text": 'say "hi"\nthere', "label": "y"}, {"text": "ünï 😀", "label": "x"}]


def taken(path, **reading):
    """(rows, quarantined as (line, reason)) of a file."""
    stream = open_stream([str(path)], Reading(**reading))
    found, bad = [], []
    for portion in stream.portions():
        found += list(values(portion.batch))
        bad += [(q.line, q.reason) for q in portion.quarantined]
    return found, bad


def as_csv(rows, delimiter=","):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue().encode()


def as_table(kind):
    sink, table = io.BytesIO(), pa.Table.from_pylist(ROWS)
    if kind == "parquet":
        pq.write_table(table, sink)
    else:
        with pa.ipc.new_file(sink, table.schema) if kind == "file" else pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
    return sink.getvalue()


CONTENTS = {
    "a.csv": as_csv(ROWS),
    "a.tsv": as_csv(ROWS, "\t"),
    "bars.csv": as_csv(ROWS, "|"),
    "a.jsonl": "\n".join(json.dumps(r) for r in ROWS).encode(),
    "a.json": json.dumps(ROWS, indent=1).encode(),
    "one.json": json.dumps({"version": 1, "data": ROWS}).encode(),
    "a.parquet": as_table("parquet"),
    "a.arrow": as_table("file"),
    "stream.arrow": as_table("stream"),
}


def packed(content, how):
    if how == ".gz":
        return gzip.compress(content)
    if how == ".zst":
        import zstandard

        return zstandard.ZstdCompressor().compress(content)
    return content


@pytest.mark.parametrize("how", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", CONTENTS)
def test_every_format_plain_and_packed(tmp_path, name, how):
    path = tmp_path / (name + how)
    path.write_bytes(packed(CONTENTS[name], how))
    found, bad = taken(path)
    assert found == ROWS
    assert not bad


def test_members_of_an_archive_are_one_stream(tmp_path):
    with zipfile.ZipFile(tmp_path / "all.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in ("a.csv", "in/a.jsonl", "in/a.parquet"):
            archive.writestr(name, CONTENTS[name.rpartition("/")[2]])
        archive.writestr("README", "nothing")
    stream = open_stream([str(tmp_path / "all.zip")])
    assert [row for p in stream.portions() for row in values(p.batch)] == ROWS * 3
    assert stream.parts == ["all"]
    assert any("passed over" in note for note in stream.notes)


def test_a_spreadsheet_and_a_database(tmp_path):
    import openpyxl

    book = openpyxl.Workbook()
    book.active.append(["text", "n"])
    book.active.append(["one", 1])
    book.active.append(["two", None])
    book.create_sheet("more").append(["other"])
    book["more"].append(["x"])
    book.save(tmp_path / "a.xlsx")
    assert taken(tmp_path / "a.xlsx")[0] == [{"text": "one", "n": 1}, {"text": "two", "n": None}]
    assert taken(tmp_path / "a.xlsx", sheet="more")[0] == [{"other": "x"}]
    with sqlite3.connect(tmp_path / "a.db") as base:
        base.execute("create table t (text, n)")
        base.executemany("insert into t values (?, ?)", [("one", 1), ("two", 2)])
    base.close()
    url = f"sqlite:///{tmp_path}/a.db"
    before = (tmp_path / "a.db").read_bytes()
    assert taken(url, query="select * from t order by n")[0] == [{"text": "one", "n": 1}, {"text": "two", "n": 2}]
    assert taken(url, query="delete from t returning text, n")[0] == [{"text": "one", "n": 1}, {"text": "two", "n": 2}]
    assert (tmp_path / "a.db").read_bytes() == before  # rolled back
    with pytest.raises(DataError, match="no such table"):
        taken(url, query="select * from nowhere")
    with pytest.raises(DataError, match="no such database"):
        taken(f"sqlite:///{tmp_path}/b.db", query="select 1")
    assert not (tmp_path / "b.db").exists()


def test_texts_sentences_and_labelled_lines_are_those_of_the_recipe(tmp_path, monkeypatch):
    """The stream reads what `rows.read` reads, also where a file is cut into blocks."""
    monkeypatch.setattr(documents, "BLOCK", 40)
    monkeypatch.setattr(documents, "CHUNK", 16)
    (tmp_path / "a.md").write_text("# One\n\nfirst\n---\n\nsecond text\n---\n \n---\nthird")
    (tmp_path / "a.conll").write_text("-DOCSTART- O\n\n" + "".join(f"Word{i} B-X\nis O\n. O\n\n" for i in range(9)) + "broken\n\nlast O\n")
    (tmp_path / "l.txt").write_text("NUM:date When was it ?\n\n__label__a __label__b both\nbare\n")
    word = "1\tHunde\tHund\tNOUN\t_\t_\t0\troot\t_\tSpaceAfter=No"
    (tmp_path / "a.conllu").write_text(
        "".join(f"# text = Hunde!\n{word}\n2\t!\t!\tPUNCT\t_\t_\t1\tpunct\t_\t_\n\n" for _ in range(6)) + "1\tx\n\n"
    )
    for name, options in (("a.md", {"separator": "---\n"}), ("a.conll", {}), ("l.txt", {"format": "labelled"}), ("a.conllu", {})):
        whole = plain_rows.read(tmp_path / name, **options)
        found, bad = taken(tmp_path / name, **options)
        assert found == [r.values for r in whole.rows], name
        assert bad == [(q.line, q.reason) for q in whole.quarantined], name
        stream = open_stream([str(tmp_path / name)], Reading(**options))
        assert [n for p in stream.portions() for n in p.batch.column(LINE).to_pylist()] == [r.line for r in whole.rows]


def test_columns_of_many_kinds_come_back_as_they_were(tmp_path):
    rows = [
        {"a": 1, "b": [1, 2], "c": {"x": [1, {"y": None}]}, "d": "t", "e": True, "f": 1 << 70, "g": 1.5},
        {"a": "one", "b": [3], "c": None, "d": None, "e": False, "f": 1, "g": 2.5, "h": ["u", "v"]},
    ]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert taken(path)[0] == [{**r, "h": r.get("h")} for r in rows]


def test_files_that_differ_are_one_table(tmp_path):
    (tmp_path / "a.csv").write_text("text,n\none,1\n")
    (tmp_path / "b.jsonl").write_text('{"text": "two", "n": 2, "more": [1]}\n')
    stream = open_stream([str(tmp_path / "a.csv"), str(tmp_path / "b.jsonl")])
    found = [row for p in stream.portions() for row in values(p.batch)]
    assert found == [{"text": "one", "n": "1", "more": None}, {"text": "two", "n": 2, "more": [1]}]
    assert stream.parts == ["a", "b"]


@pytest.mark.parametrize(
    ("encoding", "shown"), [("utf-8-sig", "byte-order mark"), ("utf-16", "utf-16 with"), ("utf-16-le", "utf-16-le"), ("cp1252", "cp125")]
)
def test_encodings_are_detected_and_shown(tmp_path, encoding, shown):
    rows = [{"text": f"Das Café in Zürich war schön und groß, Nummer {i}", "label": "gut"} for i in range(40)]
    (tmp_path / "a.csv").write_bytes(as_csv(rows, ";").decode().encode(encoding))
    source = open_stream([str(tmp_path / "a.csv")]).sources[0]
    assert shown in source.describe()
    assert "semicolons" in source.describe()
    assert taken(tmp_path / "a.csv")[0] == rows


def test_lines_in_another_encoding_are_quarantined_alone(tmp_path):
    lines_of = ["text,label", "schön,a", "größer,b", "plain,c"]
    (tmp_path / "a.csv").write_bytes("\n".join(lines_of).encode() + b"\ncaf\xe9,d\nlast,e\n")
    found, bad = taken(tmp_path / "a.csv")
    assert [r["text"] for r in found] == ["schön", "größer", "plain", "last"]
    assert bad == [(5, "not UTF-8, as the rest of the file is: byte 0xe9 at character 4")]


def test_ragged_rows_open_quotes_and_nul_bytes(tmp_path):
    (tmp_path / "a.csv").write_bytes(b'text,label\ngood,x\none,two,three\n"open,y\nnul\0,z\n"two\nlines",w\n"bad"x,q\nlast,z\n"never,')
    found, bad = taken(tmp_path / "a.csv")
    assert [r["text"] for r in found] == ["good", "two\nlines", "last"]
    assert [line for line, _ in bad] == [3, 4, 5, 8, 10]
    assert "3 fields where the header has 2" in bad[0][1]
    assert "NUL" in bad[2][1]
    assert bad[4][1] == "a quote is opened and never closed"


def test_a_line_without_end_is_quarantined_and_reading_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "MOST", 1000)
    monkeypatch.setattr(lines.lines, "__kwdefaults__", {**lines.lines.__kwdefaults__, "most": 1000})
    for name, content in {
        "a.csv": f"text,label\ngood,x\n{'y' * 5000},z\nlast,w\n",
        "a.jsonl": '{"text": "good"}\n' + json.dumps({"text": "y" * 5000}) + '\n{"text": "last"}\n',
    }.items():
        (tmp_path / name).write_text(content)
        found, bad = taken(tmp_path / name)
        assert [r["text"] for r in found] == ["good", "last"]
        assert len(bad) == 1
        assert "characters, longer than" in bad[0][1]


def test_a_hundred_thousand_columns_are_refused(tmp_path):
    (tmp_path / "a.csv").write_text(",".join(f"c{i}" for i in range(100_000)) + "\n" + ",".join("1" * 100_000) + "\n")
    (tmp_path / "a.jsonl").write_text(json.dumps({f"c{i}": 1 for i in range(100_000)}) + "\n")
    for name in ("a.csv", "a.jsonl"):
        with pytest.raises(DataError, match=r"columns or more; at most 10,000"):
            open_stream([str(tmp_path / name)])


def test_what_unpacks_to_far_too_much_is_refused(tmp_path, monkeypatch):
    small = opened.Limits(grace=1 << 20)
    monkeypatch.setattr(opened, "LIMITS", small)
    for function in (opened.opened, opened.Counted.__init__):
        monkeypatch.setattr(function, "__kwdefaults__", {**(function.__kwdefaults__ or {}), "limits": small})
    monkeypatch.setattr(opened.opened.__wrapped__, "__kwdefaults__", {**opened.opened.__wrapped__.__kwdefaults__, "limits": small})
    bomb = b"text\n" + b"a\n" * (4 << 20)
    (tmp_path / "a.csv.gz").write_bytes(gzip.compress(gzip.compress(bomb)))
    (tmp_path / "a.csv.zst").write_bytes(packed(bomb, ".zst"))
    with zipfile.ZipFile(tmp_path / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.csv", bomb)
    for name in ("a.csv.gz", "a.csv.zst", "a.zip"):
        with pytest.raises(DataError, match="zip bomb"):
            list(open_stream([str(tmp_path / name)]).portions())
    with pytest.raises(DataError, match="zip bomb"):
        plain_rows.read(tmp_path / "a.csv.gz")


@pytest.mark.parametrize("name", ["../a.csv", "/etc/a.csv", "link.csv"])
def test_members_that_lead_elsewhere_are_refused(tmp_path, name):
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        info = zipfile.ZipInfo(name)
        info.external_attr = (stat.S_IFLNK if name == "link.csv" else stat.S_IFREG) << 16 | 0o644 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match=r"leads out of it|no regular file"):
        open_stream([str(tmp_path / "a.zip")])


def test_links_out_of_a_folder_are_passed_over_and_pipes_refused(tmp_path):
    (tmp_path / "secret.csv").write_text("text\nsecret\n")
    folder = tmp_path / "rows"
    folder.mkdir()
    (folder / "a.csv").write_text("text\nopen\n")
    (folder / "b.csv").symlink_to(tmp_path / "secret.csv")
    (folder / "loop").symlink_to(folder)
    stream = open_stream([str(folder)])
    assert [r["text"] for p in stream.portions() for r in values(p.batch)] == ["open"]
    assert any("leads out" in note for note in stream.notes)
    os.mkfifo(tmp_path / "pipe.csv")
    opener = os.open(tmp_path / "pipe.csv", os.O_RDWR)  # so that opening it does not wait
    with pytest.raises(DataError, match="no regular file"):
        open_stream([str(tmp_path / "pipe.csv")])
    os.close(opener)


def test_a_file_that_grows_gives_what_was_there_and_one_that_changes_is_refused(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text\none\ntwo\n")
    stream = open_stream([str(path)])
    with path.open("a") as file:
        file.write("three\n")
    assert [r["text"] for p in stream.portions() for r in values(p.batch)] == ["one", "two"]
    path.write_text("text\nONE\ntwo\n")
    with pytest.raises(DataError, match="was changed while it was read"):
        list(stream.portions())
    path.write_text("text\n")
    with pytest.raises(DataError, match="got shorter"):
        list(stream.portions())


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", bytes(range(256)) * 8, "binary"),
        ("a.csv", b"text,label\n", "holds no rows"),
        ("a.csv", b"text,text\na,b\n", "twice"),
        ("a.xyz", b"text\na\n", "format"),
        ("a.json", b'[{"a": 1},\n{"a": ]', "line 2"),
        ("a.json", b'[{"a": 1}', "not closed"),
        ("a.json", b"{", "not JSON"),
        ("a.parquet", b"PAR1nothing", "Parquet"),
        ("a.arrow", b"ARROW1nothing", "Arrow"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00broken", "damaged"),
        ("a.csv.zst", b"\x28\xb5\x2f\xfdbroken", "damaged"),
        ("a.zip", b"PK\x03\x04broken", "damaged"),
        ("a.xlsx", b"PK\x03\x04broken", "Excel"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        list(open_stream([str(tmp_path / name)]).portions())
    assert name in str(caught.value)


def test_two_columns_of_one_name_are_refused_rather_than_one_lost(tmp_path):
    (tmp_path / "a.csv").write_text("1,2\n3,4\n")
    table = pa.Table.from_arrays([pa.array(["x"]), pa.array(["y"])], names=["text", "text"])
    pq.write_table(table, tmp_path / "a.parquet")
    with pa.ipc.new_file(str(tmp_path / "a.arrow"), table.schema) as file:
        file.write(table)
    for name, columns in (("a.csv", ["a", "a"]), ("a.parquet", None), ("a.arrow", None)):
        with pytest.raises(DataError, match="twice"):
            open_stream([str(tmp_path / name)], Reading(columns=columns))
    with pytest.raises(DataError, match="twice"):
        plain_rows.read(tmp_path / "a.csv", columns=["a", "a"])


def test_whole_numbers_of_two_files_are_kept_beyond_63_bits(tmp_path):
    for name, kind, number in (("a", pa.uint64(), 2**64 - 1), ("b", pa.int32(), -1)):
        pq.write_table(pa.table({"n": pa.array([number], kind)}), tmp_path / f"{name}.parquet")
    stream = open_stream([str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")])
    assert [v["n"] for batch, _, _ in stream.portions() for v in values(batch)] == [2**64 - 1, -1]


def test_what_is_said_of_reading_and_read_by_no_file_is_told(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "a.csv").write_text("a\n")
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    said = Reading(columns=["text"], separator="\n", query="SELECT 1", sheet="one", encoding="utf-8")

    def idle(*names):
        return [n.split()[0] for n in open_stream([str(tmp_path / n) for n in names], said).notes if "is not read" in n]

    assert idle("a.parquet") == ["columns", "separator", "query", "sheet", "encoding"]
    assert idle("a.jsonl") == ["columns", "separator", "query", "sheet"]
    assert idle("a.parquet", "a.csv") == ["separator", "query", "sheet"]


@pytest.mark.parametrize("encoding", ["utf-16", "rot13", "undefined", "idna"])
def test_an_encoding_that_does_not_fit_is_told(tmp_path, encoding):
    (tmp_path / "a.csv").write_bytes(b"text,label\na,b\n")
    with pytest.raises(DataError, match="encoding"):
        open_stream([str(tmp_path / "a.csv")], Reading(encoding=encoding))


def test_what_no_table_can_hold_is_quarantined(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a": "fine", "n": 1.5}\n{"a": "\\ud800", "n": 2}\n{"a": "far", "n": 1e999}\n{"a": NaN}\n')
    found, bad = taken(tmp_path / "a.jsonl")
    assert found == [{"a": "fine", "n": 1.5}]
    assert [line for line, _ in bad] == [2, 3, 4]
    assert "lone surrogate" in bad[0][1]
    assert "out of range" in bad[1][1]


def test_a_data_set_of_the_hub_is_read_at_its_commit(tmp_path, monkeypatch):
    """With a hub of our own in place of the real one."""
    from types import SimpleNamespace as Some

    import huggingface_hub

    (tmp_path / "train.jsonl").write_text('{"text": "one"}\n')
    asked = []

    class Api:
        def dataset_info(self, name, revision):
            asked.append((name, revision))
            return Some(sha="f" * 40, siblings=[Some(rfilename=n) for n in ("README.md", "data/train.jsonl", "run.py", "other/x.csv")])

    monkeypatch.setattr(huggingface_hub, "HfApi", Api)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda name, file, repo_type, revision: str(tmp_path / Path(file).name))
    stream = open_stream(["hf:owner/name@main/data"])
    assert asked == [("owner/name", "main")]
    assert stream.sources[0].name == f"hf:owner/name@{'f' * 40}/data/train.jsonl"
    with pytest.raises(DataError, match="no revision"):
        open_stream(["hf:owner/name"])


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(
    content=st.binary(max_size=300),
    name=st.sampled_from(["a.csv", "a.tsv", "a.jsonl", "a.json", "a.txt", "a.conllu", "a.parquet", "a.csv.gz", "a.xlsx"]),
)
def test_any_bytes_give_rows_or_a_message(tmp_path, content, name):
    path = tmp_path / name
    path.write_bytes(content)
    with contextlib.suppress(DataError):
        list(open_stream([str(path)]).portions())
    assert path.read_bytes() == content


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    value=st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda c: st.lists(c, max_size=3) | st.dictionaries(st.text(), c, max_size=3),
        max_leaves=8,
    ),
    cut=st.integers(1, 40),
)
def test_lists_read_item_by_item_are_those_read_at_once(value, cut):
    text = json.dumps([value, 12, value], indent=1)
    before = json_values.CHUNK
    try:
        json_values.CHUNK = cut
        assert [v for _, v in json_values.each_item(io.StringIO(text))] == [value, 12, value]
        with pytest.raises(ValueError, match=r"line|list"):
            list(json_values.each_item(io.StringIO(text[:-2])))
    finally:
        json_values.CHUNK = before


@pytest.mark.skipif(not (DATA / "dirty_json").is_dir(), reason="no dirty_json in $LUTHIER_DATA")
def test_dirty_json_parses_or_is_refused_with_its_line(tmp_path):
    """95 that must parse, 188 that must not, 35 either: as a JSON text of one line, and as a file in its own right."""
    counts = {"y": 0, "n": 0, "i": 0}
    for path in sorted((DATA / "dirty_json" / "test_parsing").glob("*.json")):
        kind, data = path.name[0], path.read_bytes()
        try:
            value = json_values.parse(data.decode("utf-8"))
        except UnicodeDecodeError as error:
            value = ValueError(f"line 1: {error}")
        refused = isinstance(value, Exception)
        if kind == "i":
            counts["i"] += 1
        else:
            assert refused == (kind == "n"), path.name
            counts[kind] += 1
        if refused and kind == "n":
            assert "line" in str(value) or "recursion" in str(value) or "not JSON" in str(value), (path.name, value)
        for name in ("a.json", "a.jsonl"):
            (tmp_path / name).write_bytes(data)
            found, bad, said = [], [], ""
            try:
                found, bad = taken(tmp_path / name)
            except DataError as error:
                said = str(error)
            assert not said or name in said
            if kind == "y":
                assert not said or "no list" in said or "no rows" in said, (path.name, said)
            assert kind != "n" or not found or name == "a.jsonl", path.name
            assert all(line >= 1 and reason for line, reason in bad)
    assert counts == {"y": 95, "n": 188, "i": 35}
