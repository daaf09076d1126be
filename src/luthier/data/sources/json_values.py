"""JSON, strictly: one value a line, or one list a file, read value by value.

Python's parser takes NaN and Infinity; here they are faults, as the standard has it (RFC 8259).
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple, TextIO

from luthier.data.sources.lines import EXCERPT, MOST, Line

CHUNK = 1 << 20
SPACE = " \t\n\r"
ENDS = SPACE + ",]"


class Value(NamedTuple):
    """A value and the line (or place in the list) that it has; or what is wrong, and how it begins."""

    line: int
    value: Any
    fault: str
    excerpt: str


def parse(text: str) -> Any:
    """A JSON text's value; the error where it has none."""
    try:
        return json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        return error


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def object_fault(value: Any) -> str:
    """Why a value is no row; "" where it is one."""
    if isinstance(value, dict):
        return ""
    fault = f"not JSON: {value}" if isinstance(value, Exception) else f"a {type(value).__name__} where an object was expected"
    return fault[:EXCERPT]


def each_line(lines: Iterable[Line]) -> Iterator[Value]:
    """The object of each line that is not empty."""
    for line in lines:
        if line.fault:
            yield Value(line.number, None, line.fault, line.text[:EXCERPT])
        elif line.text.strip():
            value = parse(line.text)
            fault = object_fault(value)
            yield Value(line.number, None if fault else value, fault, line.text[:EXCERPT].rstrip("\r\n") if fault else "")


class _Text:
    """A growing window on a text."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self.buffer, self.place, self.ended = stream, "", 0, False
        self.lines = 1

    def more(self) -> None:
        piece = self._stream.read(max(CHUNK, len(self.buffer) - self.place))
        self.ended = not piece
        self.buffer, self.place = self.buffer[self.place :] + piece, 0

    def move(self, to: int) -> None:
        self.lines += self.buffer.count("\n", self.place, to)
        self.place = to

    def skip(self) -> str:
        """Pass over white space; the next character, "" at the end."""
        while True:
            to = self.place
            while to < len(self.buffer) and self.buffer[to] in SPACE:
                to += 1
            self.move(to)
            if to < len(self.buffer):
                return self.buffer[to]
            if self.ended:
                return ""
            self.more()


def each_item(stream: TextIO) -> Iterator[tuple[int, Any]]:
    """(line, value) of each item of a text that is one list. Raises ValueError, with the line, where it is not JSON.

    Memory is that of the longest item, which may have `MOST` characters.
    """
    text, decoder = _Text(stream), json.JSONDecoder(parse_constant=_no_constant)
    if text.skip() != "[":
        raise ValueError("no list")
    text.move(text.place + 1)
    following = text.skip()
    first = True
    while following != "]" or not first:
        if not first:
            if following == "]":
                break
            if following != ",":
                raise ValueError(f"line {text.lines}: {'the list is not closed' if not following else 'a comma or ] was expected'}")
            text.move(text.place + 1)
            text.skip()
        first = False
        value, end = _item(text, decoder)
        yield text.lines, value
        text.move(end)
        following = text.skip()
    text.move(text.place + 1)
    if text.skip():
        raise ValueError(f"line {text.lines}: something stands after the list")


def _item(text: _Text, decoder: json.JSONDecoder) -> tuple[Any, int]:
    """The next value and where it ends; a number at the end of the window may go on, and is read again with more."""
    while True:
        try:
            value, end = decoder.raw_decode(text.buffer, text.place)
        except RecursionError:
            raise ValueError(f"line {text.lines}: nested too deeply") from None
        except ValueError as error:
            if text.ended or len(text.buffer) - text.place > MOST:
                shown = getattr(error, "msg", str(error))
                line = text.lines + text.buffer.count("\n", text.place, getattr(error, "pos", text.place))
                raise ValueError(f"line {line}: {shown}") from None
        else:
            whole = end < len(text.buffer) and (text.buffer[end] in ENDS or not isinstance(value, (int, float)))
            if whole or text.ended or len(text.buffer) - text.place > MOST:
                return value, end
        text.more()
