"""Plain text: documents of files, folders, patterns and archives, each with where it began."""

from __future__ import annotations

import gzip
import zipfile

import pytest

from luthier.data.origin import located
from luthier.data.prepare import read_files
from luthier.data.rows import read
from luthier.errors import DataError
from luthier.recipe.sections import Data


def test_a_file_is_one_document_or_those_between_separators(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one\ntwo\n---\n\nthree\n---\n   \n")
    whole, parts = read(path), read(path, separator="---", text="body")
    assert [r.values for r in whole.rows] == [{"text": "one\ntwo\n---\n\nthree\n---\n   "}]
    assert [(r.values["body"], r.line) for r in parts.rows] == [("one\ntwo", 1), ("three", 5)]


def test_folders_patterns_and_archives(tmp_path):
    books = tmp_path / "books" / "inner"
    books.mkdir(parents=True)
    (books / "b.txt").write_text("second")
    (tmp_path / "books" / "a.md.gz").write_bytes(gzip.compress(b"first"))
    (tmp_path / "books" / "cover.png").write_bytes(b"\x89PNG")
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("in/c.tsv", "text\tlabel\nhello\tx\n")
    assert [p.name for p in located("books", Data(train=["x"]), folder=tmp_path)] == ["a.md.gz", "b.txt"]
    assert [p.name for p in located("books/*.gz", Data(train=["x"]), folder=tmp_path)] == ["a.md.gz"]
    rows, hashes = read_files(Data(train=["books", "all.zip/in/c.tsv"]), folder=tmp_path)
    assert [r.values["text"] for r in rows["train"].rows] == ["first", "second", "hello"]
    assert any(name.endswith("all.zip") for name in hashes)


@pytest.mark.parametrize(
    ("name", "message"),
    [("nothing/*.txt", "no file matches"), ("empty", "holds no data files"), ("all.zip/no.csv", "has no no.csv"), ("bad.zip/a.csv", "damaged zip")],
)  # fmt: skip
def test_what_is_not_there_is_told(tmp_path, name, message):
    (tmp_path / "empty").mkdir()
    with zipfile.ZipFile(tmp_path / "all.zip", "w") as archive:
        archive.writestr("c.tsv", "text\n")
    (tmp_path / "bad.zip").write_bytes(b"PK nothing")
    with pytest.raises(DataError, match=message):
        read_files(Data(train=[name]), folder=tmp_path)
