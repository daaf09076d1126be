"""Bytes to lines: numbered, bounded in length, with what is wrong with each.

Line breaks are those of CSV files: LF, CR LF, or CR alone; they stay at the end of a line.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

from luthier.data.sources.encoding import Encoding

MOST = 16 << 20
"""Characters of a line or cell; a longer one is quarantined."""
EXCERPT = 200


class Line(NamedTuple):
    """A line of a file; where it has a fault, its first characters alone."""

    number: int
    text: str
    fault: str = ""


def reader(stream: BinaryIO, encoding: Encoding) -> io.TextIOWrapper:
    """The characters of a stream. Bytes that are not in a mixed encoding come out as lone surrogates, else as U+FFFD."""
    return io.TextIOWrapper(stream, encoding.name, errors="surrogateescape" if encoding.mixed else "replace", newline="")


def fault(text: str, *, mixed: bool) -> str:
    """Why some characters cannot be taken for text; "" where they can."""
    if "\0" in text:
        return "holds a NUL byte"
    if mixed and not text.isascii():
        try:
            text.encode("utf-8")
        except UnicodeEncodeError as error:
            return f"not UTF-8, as the rest of the file is: byte {ord(text[error.start]) - 0xDC00:#x} at character {error.start + 1}"
    return ""


def lines(stream: BinaryIO, encoding: Encoding, *, newline: str | None = None, most: int = MOST) -> Iterator[Line]:
    """The lines of a text; where `newline` is LF, CR alone ends none."""
    text = reader(stream, encoding)
    if newline is not None:
        text.reconfigure(newline=newline)
    number, mixed, take = 0, encoding.mixed, text.readline
    while piece := take(most):
        number += 1
        if len(piece) >= most and piece[-1] not in "\r\n":
            length = len(piece)
            while (more := take(most)) and (length := length + len(more)) and more[-1] not in "\r\n":
                pass
            shown = piece[:EXCERPT].encode("utf-8", "replace").decode("utf-8")
            yield Line(number, shown, f"a line of {length:,} characters, longer than {most >> 20} Mi")
            continue
        wrong = fault(piece, mixed=mixed)
        if wrong:
            yield Line(number, piece[:EXCERPT].encode("utf-8", "replace").decode("utf-8"), wrong)
        else:
            yield Line(number, piece)
