"""Reading files: every format, every fault with its line, no row lost."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.data.rows import read
from luthier.errors import DataError

ROWS = [{"text": "a, b", "label": "x"}, {"text": 'say "hi"\nthere', "label": "y"}, {"text": "ünï 😀", "label": "x"}]


def csv_text(rows, delimiter=","):
    out = io.StringIO()
    writer = csv.DictWriter(out, list(rows[0]), delimiter=delimiter, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("name", ["a.csv", "a.tsv", "a.jsonl", "a.json", "a.parquet", "b.csv"])
def test_every_format_plain_and_gzipped(tmp_path, name, packed):
    content = {
        "a.csv": csv_text(ROWS).encode(),
        "a.tsv": csv_text(ROWS, "\t").encode(),
        "a.jsonl": "\n".join(json.dumps(r) for r in ROWS).encode(),
        "a.json": json.dumps(ROWS).encode(),
        "b.csv": csv_text(ROWS, ";").encode(),
    }.get(name)
    if content is None:
        sink = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(ROWS), sink)
        content = sink.getvalue()
    path = tmp_path / (name + ".gz" if packed else name)
    path.write_bytes(gzip.compress(content) if packed else content)
    found = read(path)
    assert [r.values for r in found.rows] == ROWS
    assert not found.quarantined


def test_lines_that_begin_with_their_label(tmp_path):
    """TREC's form has levels, fastText's a mark and several labels; a line without text is quarantined."""
    path = tmp_path / "a.txt"
    path.write_text("NUM:date When was it ?\n\n__label__good fine: really\nHUM:ind\n__label__a __label__b both\n", encoding="utf-8")
    found = read(path, format="labelled")
    assert [r.values for r in found.rows] == [
        {"text": "When was it ?", "label": "NUM:date", "coarse": "NUM"},
        {"text": "fine: really", "label": "good", "coarse": "good"},
        {"text": "both", "label": "a b", "coarse": "a b"},
    ]
    assert [(q.line, q.reason) for q in found.quarantined] == [(4, "has no text after its label")]


@pytest.mark.parametrize(("encoding", "mark"), [("utf-8-sig", "utf-8-sig"), ("utf-16", "utf-16"), ("cp1252", "cp1252"), ("latin-1", "")])
def test_encodings_are_told(tmp_path, encoding, mark):
    path = tmp_path / "a.csv"
    text = csv_text([{"text": f"Das Café in Zürich war schön und groß, Nummer {i}", "label": "gut"} for i in range(40)])
    path.write_bytes(text.encode(encoding))
    found = read(path)
    assert "Café in Zürich" in found.rows[0].values["text"]
    assert len(found.rows) == 40
    assert found.notes


def test_malformed_rows_are_quarantined_with_line_and_reason(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text('text,label\ngood,x\none,two,three\n"open,y\nlast,z\n')
    found = read(path)
    assert [(r.values["text"], r.line) for r in found.rows] == [("good", 2), ("last", 5)]
    assert [(q.line, q.reason) for q in found.quarantined] == [
        (3, "3 fields where the header has 2"),
        (4, "a quote is opened and never closed"),
    ]


def test_bare_quotes_in_a_tsv_are_text(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text('text\tlabel\n"so called\tx\na 5" screen\ty\nand" more\tx\n')
    assert [r.values["text"] for r in read(path).rows] == ['"so called', 'a 5" screen', 'and" more']


def test_bad_json_lines_are_quarantined(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": \n[1]\n\n{"text": NaN}\n{"text": "b"}\n')
    found = read(path)
    assert [r.line for r in found.rows] == [1, 6]
    assert [q.line for q in found.quarantined] == [2, 3, 5]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "is empty"),
        ("a.csv", b"  \n \n", "is empty"),
        ("a.csv", bytes(range(256)) * 8, "binary"),
        ("a.csv", b"text,label\n", "holds no rows"),
        ("a.csv", b"text,text\na,b\n", "twice"),
        ("a.xyz", b"text\na\n", "format"),
        ("a.json", b"{", "not JSON"),
        ("a.json", b"3", "no list of rows"),
        ("a.parquet", b"PAR1nothing", "Parquet"),
        ("a.csv.gz", b"\x1f\x8b\x08\x00broken", "gzip"),
    ],
)
def test_files_that_cannot_be_read_say_why(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(DataError, match="no such file"):
        read(tmp_path / "none.csv")


@given(st.lists(st.tuples(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.sampled_from("xyz")), min_size=1, max_size=20))
def test_whatever_is_written_as_csv_comes_back_or_is_quarantined(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("p") / "a.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(rows)
    try:
        found = read(path)
    except DataError:
        assert any("\0" in text for text, _ in rows)
        return
    assert [(r.values["text"], r.values["label"]) for r in found.rows] == rows


DATA = Path(os.environ.get("LUTHIER_DATA", Path(__file__).parents[3] / "shared" / "data"))


@pytest.mark.skipif(not (DATA / "dirty_json").is_dir(), reason="no dirty_json in $LUTHIER_DATA")
def test_json_that_must_parse_does_and_that_must_fail_does():
    from luthier.data.sources.json_values import parse

    counts = {"y": 0, "n": 0}
    for path in sorted((DATA / "dirty_json" / "test_parsing").glob("[yn]_*.json")):
        try:
            text = path.read_bytes().decode("utf-8")
        except UnicodeDecodeError:
            counts["n"] += path.name.startswith("n_")
            continue
        failed = isinstance(parse(text), Exception)
        assert failed == path.name.startswith("n_"), path.name
        counts[path.name[0]] += 1
    assert counts["y"] == 95
    assert counts["n"] > 180
