"""Texts that are no tables: documents, lines that begin with their label, and sentences with a line a word."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, TextIO

from luthier.data.rows import Quarantined, Row, Rows, labelled
from luthier.data.sources.lines import EXCERPT, Line, fault

CHUNK = 1 << 20
MOST = 64 << 20
"""Characters of a document."""
LONG = f"a document of more than {MOST >> 20} Mi characters"
BLOCK = 1 << 20
"""Characters of sentences that are read together."""


def documents(text: TextIO, name: str, *, separator: str | None, column: str, mixed: bool) -> Iterator[Row | Quarantined]:
    """The documents of a text, between separators; the whole text where there is none."""
    held: list[str] = []
    size, line, long = 0, 1, False
    while True:
        chunk = text.read(CHUNK)
        parts = ["".join(held) + chunk] if separator is None or not chunk else ("".join(held) + chunk).split(separator)
        if chunk and separator is None:
            held.append(chunk)
            size += len(chunk)
            if size > MOST:
                first = held[0]
                while text.read(CHUNK):
                    pass
                yield Quarantined(
                    name, 1, f"a document of more than {MOST >> 20} Mi characters: say what separates documents", first[:EXCERPT]
                )
                return
            continue
        last = parts.pop() if chunk else ""
        for part in parts:
            found = _document(part, name, line, column, mixed=mixed, long=long)
            long = False
            if found is not None:
                yield found
            line += part.count("\n") + (separator or "").count("\n")
        if not chunk:
            return
        if len(last) > MOST:
            long, last = True, last[-len(separator or "") :]
        held = [last]


def _document(part: str, name: str, line: int, column: str, *, mixed: bool, long: bool) -> Row | Quarantined | None:
    if not part.strip() and not long:
        return None
    begun = line + part[: len(part) - len(part.lstrip())].count("\n")
    if long:
        return Quarantined(name, begun, LONG, part[:EXCERPT])
    wrong = fault(part, mixed=mixed)
    if wrong:
        return Quarantined(name, begun, wrong, part[:EXCERPT].encode("utf-8", "replace").decode())
    return Row({column: part.strip("\r\n")}, name, begun)


def labelled_lines(lines: Iterable[Line], name: str, *, column: str) -> Iterator[Row | Quarantined]:
    """Lines `LABEL text`."""
    for line in lines:
        if line.fault:
            yield Quarantined(name, line.number, line.fault, line.text)
            continue
        found = labelled(line.text, column)
        if isinstance(found, str):
            yield Quarantined(name, line.number, found, line.text[:EXCERPT].rstrip())
        elif found is not None:
            yield Row(found, name, line.number)


def sentences(lines: Iterable[Line], path: Path, *, kind: str, columns: list[str] | None, notes: list[str]) -> Iterator[Row | Quarantined]:
    """Sentences of CoNLL files, some at a time, cut at empty lines; one with a line that cannot be read is quarantined whole.

    Where the columns are found in the file, they are found in its first part.
    """
    block: list[Line] = []
    size = 0
    names = columns

    def flush() -> Iterator[Row | Quarantined]:
        nonlocal names
        found = Rows()
        _read(block, path, found, kind, names)
        if kind == "conll" and names is None:
            names = _names(found)
        notes.extend(n for n in found.notes if n not in notes)
        everything: list[Row | Quarantined] = [*found.rows, *found.quarantined]
        yield from sorted(everything, key=lambda r: r.line)

    for line in lines:
        if not line.text.strip() and not line.fault and size > BLOCK:
            yield from flush()
            block, size = [], 0
        block.append(line)
        size += len(line.text)
    if any(b.text.strip() for b in block):
        yield from flush()


def _read(block: list[Line], path: Path, found: Rows, kind: str, names: list[str] | None) -> None:
    from luthier.data.conll import read_columns, read_conllu

    first = block[0].number
    content = "\n".join("" if b.fault else b.text.rstrip("\r\n") for b in block)
    if kind == "conllu":
        read_conllu(content, path, found, first=first)
    else:
        read_columns(content, path, found, names, first=first)
    spoiled = {b.number - first + 1: b for b in block if b.fault}
    if spoiled:
        _take_out(found, spoiled, content.split("\n"), path, first)


def _take_out(found: Rows, spoiled: dict[int, Line], lines: list[str], path: Path, first: int) -> None:
    """Quarantine the sentences around lines that cannot be read: the empty line left in their place cut them in two."""
    for number, line in spoiled.items():
        low, high = number - 1, number + 1
        while low > 0 and (lines[low - 1].strip() or low in spoiled):
            low -= 1
        while high <= len(lines) and (lines[high - 1].strip() or high in spoiled):
            high += 1
        low, high = low + first - 1, high + first - 1
        found.rows = [r for r in found.rows if not low < r.line < high]
        if not any(low < q.line < high and q.reason == line.fault for q in found.quarantined):
            found.quarantined = [q for q in found.quarantined if not low < q.line < high]
            found.quarantined.append(Quarantined(str(path), low + 1, line.fault, line.text))


def _names(found: Rows) -> list[str] | None:
    note = next((n for n in found.notes if ": columns read as " in n), None)
    return None if note is None else note.partition(": columns read as ")[2].split(", ")


def whole(content: str, path: Path, *, kind: str) -> tuple[list[Any], list[str]]:
    """Rows and quarantined rows of a JSON text that is no list, and notes: read at once."""
    from luthier.data.rows import read_json

    found = Rows()
    read_json(content, path, found)
    return [*found.rows, *found.quarantined], found.notes
