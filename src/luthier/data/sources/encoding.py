"""How the bytes of a text file are to be read: its byte-order mark, its encoding, and whether all lines agree.

Enters: a file. Leaves: an `Encoding`, found in one pass and bounded memory. Where most lines are UTF-8 and some are not,
the file is UTF-8 and those lines are to be quarantined: guessing per line would write the wrong letters without a word.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import BinaryIO

from luthier.errors import DataError

CHUNK = 1 << 20
HEAD = 1 << 16
MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
NEWLINE = 0x0A
Open = Callable[[], AbstractContextManager[BinaryIO]]


@dataclass(frozen=True)
class Encoding:
    """The name that Python has for it; `mixed` where some lines are not in it; what is to be told of it."""

    name: str
    mark: bool = False
    mixed: bool = False
    note: str = ""

    def __str__(self) -> str:
        shown = "utf-8" if self.name == "utf-8-sig" else self.name
        return shown + (" with a byte-order mark" if self.mark else "") + (", some lines are not" if self.mixed else "")


def detect(opened: Open, where: str, *, wanted: str = "auto") -> Encoding:
    """The encoding of a file. Raises DataError for one that is empty, binary, or not in the encoding that is wanted."""
    with opened() as stream:
        head = stream.read(HEAD)
    if not head.strip():
        raise DataError("is empty", where=where, remedy="give a file with at least one row")
    if wanted != "auto":
        return _wanted(opened, where, wanted)
    for mark, name in MARKS:
        if head.startswith(mark):
            return Encoding(name, mark=True)
    wide = _wide(head)
    if wide:
        return Encoding(wide, note=f"no byte-order mark; read as {wide}")
    if sum(b < 9 or 13 < b < 32 for b in head) > len(head) // 20:
        raise DataError("is a binary file", where=where, remedy="give a text file: CSV, TSV, JSONL or JSON, or Parquet")
    place = _first_fault(opened)
    if place is None:
        return Encoding("utf-8")
    good, bad = _lines(opened)
    if good >= bad:
        return Encoding("utf-8", mixed=True, note=f"UTF-8, but for {bad} lines, which are quarantined")
    return _guess(opened, where, place)


def _wanted(opened: Open, where: str, wanted: str) -> Encoding:
    try:
        b"a".decode(wanted, "replace")
        decoder = codecs.getincrementaldecoder(wanted)()
    except (LookupError, UnicodeError):
        raise DataError(f"unknown encoding {wanted!r}", where="encoding", remedy="for example utf-8 or cp1252") from None
    place = 0
    with opened() as stream:
        while chunk := stream.read(CHUNK):
            try:
                decoder.decode(chunk)
            except UnicodeError as error:
                why = f"{error.reason} at byte {place + error.start}" if isinstance(error, UnicodeDecodeError) else str(error)
                raise DataError(f"is not {wanted}: {why}", where=where, remedy="let the encoding be auto") from None
            place += len(chunk)
    return Encoding(wanted, note=f"read as {wanted}")


def _wide(head: bytes) -> str | None:
    """UTF-16 without a mark: every other byte of plain text is zero."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    most = len(head) // 2
    if odd > 0.4 * most and even < 0.05 * most:
        return "utf-16-le"
    return "utf-16-be" if even > 0.4 * most and odd < 0.05 * most else None


def _first_fault(opened: Open) -> int | None:
    """The first byte that is not UTF-8."""
    decoder, place = codecs.getincrementaldecoder("utf-8")(), 0
    with opened() as stream:
        while True:
            chunk = stream.read(CHUNK)
            try:
                decoder.decode(chunk, not chunk)
            except UnicodeDecodeError as error:
                return place + error.start
            if not chunk:
                return None
            place += len(chunk)


def _lines(opened: Open) -> tuple[int, int]:
    """How many lines hold more than ASCII and are UTF-8, and how many are not."""
    good = bad = 0
    with opened() as stream:
        while line := stream.readline(CHUNK):
            if line.isascii():
                continue
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                bad += 1
            else:
                good += 1
    return good, bad


def _guess(opened: Open, where: str, place: int) -> Encoding:
    from charset_normalizer import from_bytes

    with opened() as stream:
        skip = max(0, place - HEAD)
        while skip:
            skip -= len(stream.read(min(skip, CHUNK)))
        best = from_bytes(stream.read(CHUNK)).best()
    if best is None:
        raise DataError("is neither UTF-8 nor any text encoding we can tell", where=where, remedy="set the encoding, or give a text file")
    return Encoding(best.encoding, note=f"not UTF-8; read as {best.encoding}")
