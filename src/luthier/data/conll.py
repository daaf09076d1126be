"""Sentences with a line a word: CoNLL-U, and columns such as CoNLL-2003 and IOB2 files have.

Enters: the text of a file. Leaves: one row a sentence. `words` and every layer of marks are lists as long as each
other; `text` is the sentence as it was written, and `offsets` says where in it each word stands, [start, end). A
sentence with a broken line is quarantined whole, since its layers would no longer fit each other.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.data.rows import Quarantined, Row, Rows
from luthier.errors import DataError

FIELDS = ("id", "words", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The ten columns of CoNLL-U, under the names that rows have (universaldependencies.org/format.html)."""
RANGE, EMPTY, PLAIN = re.compile(r"(\d+)-(\d+)"), re.compile(r"\d+\.\d+"), re.compile(r"\d+")
COMMENT = re.compile(r"#\s*(newdoc|newpar)\b|#\s*[\w:.-]+\s*=\s")
TAG = re.compile(r"O|[BIESLU]-.+")
DOCUMENT = "-DOCSTART-"


class Sentence(NamedTuple):
    """Lines between two blank ones: the number of the first word's, the comments, and (number, line) of the others."""

    line: int
    comments: list[str]
    lines: list[tuple[int, str]]


def sentences(content: str, *, separator: str | None = "\t", first: int = 1) -> Iterator[Sentence]:
    """Split at blank lines; the first line has the number `first`.

    A line with `#` is a comment before the first word alone, and where it is not laid out as a word.
    """
    comments: list[str] = []
    lines: list[tuple[int, str]] = []
    for number, raw in enumerate([*content.split("\n"), ""], first):
        line = raw.rstrip("\r")
        if not line.strip():
            if lines:
                yield Sentence(lines[0][0], comments, lines)
            comments, lines = [], []
        elif line.startswith("#") and not lines and (COMMENT.match(line) or len(line.split(separator)) < 2):
            comments.append(line[1:].strip())
        else:
            lines.append((number, line))


def offsets_of(words: Sequence[str], text: str) -> list[list[int]] | None:
    """Where each word stands in the text, [start, end); None where the words are not the text with white space between."""
    found, place = [], 0
    for word in words:
        while place < len(text) and text[place].isspace() and not text.startswith(word, place):
            place += 1
        if not word or not text.startswith(word, place):
            return None
        found.append([place, place + len(word)])
        place += len(word)
    return found if not text[place:].strip() else None


def joined(words: Sequence[str], spaces: Sequence[bool]) -> tuple[str, list[list[int]]]:
    """A text of the words, with a space after those that `spaces` says, and where each stands."""
    parts, found, place = [], [], 0
    for i, (word, space) in enumerate(zip(words, spaces, strict=True)):
        found.append([place, place + len(word)])
        parts.append(word + (" " if space and i < len(words) - 1 else ""))
        place += len(parts[-1])
    return "".join(parts), found


def read_conllu(content: str, path: Path, result: Rows, *, first: int = 1) -> None:
    """CoNLL-U: words are the syntactic ones; a multi-word token lends them its place in the text, empty nodes are left out."""
    counts: Counter[str] = Counter()
    for sentence in sentences(content, first=first):
        row = _conllu_row(sentence, counts)
        if isinstance(row, str):
            excerpt = " ".join(line.split("\t")[1] if "\t" in line else line for _, line in sentence.lines)
            result.quarantined.append(Quarantined(str(path), sentence.line, row, excerpt[:200]))
        else:
            result.rows.append(Row(row, str(path), sentence.line))
    for what, count in counts.items():
        result.notes.append(f"{path.name}: {count} {what}")


def _conllu_row(sentence: Sentence, counts: Counter[str]) -> dict[str, Any] | str:
    """The row of a sentence, or what is wrong with it."""
    table: list[list[str]] = []
    surface: list[tuple[str, bool, int]] = []  # what stands in the text: its form, whether a space follows, how many words it is
    inside = 0
    for number, line in sentence.lines:
        cells = line.split("\t")
        if len(cells) != len(FIELDS):
            return f"{len(cells)} columns where CoNLL-U has {len(FIELDS)}, in line {number}"
        if EMPTY.fullmatch(cells[0]):
            counts["empty nodes left out"] += 1
            continue
        spaced = "SpaceAfter=No" not in cells[9].split("|")
        if several := RANGE.fullmatch(cells[0]):
            first, last = int(several[1]), int(several[2])
            if first != len(table) + 1 or last < first or inside:
                return f"multi-word token {cells[0]} is out of place, in line {number}"
            surface.append((cells[1], spaced, last - first + 1))
            inside = last - first + 1
            continue
        if not PLAIN.fullmatch(cells[0]) or int(cells[0]) != len(table) + 1:
            return f"word {cells[0]!r} where {len(table) + 1} was expected, in line {number}"
        if not cells[1].strip():
            return f"an empty word, in line {number}"
        table.append(cells)
        if inside:
            inside -= 1
        else:
            surface.append((cells[1], spaced, 1))
    if inside or not table:
        return "a multi-word token goes on past the last word" if inside else "no words"
    heads: list[int | None] = []
    for cells in table:
        if cells[6] != "_" and not (PLAIN.fullmatch(cells[6]) and int(cells[6]) <= len(table)):
            return f"the head of word {cells[0]} is {cells[6]!r}"
        heads.append(None if cells[6] == "_" else int(cells[6]))
    words = [c[1] for c in table]
    layers = {name: [_cell(c, i) for c in table] for i, name in enumerate(FIELDS) if name not in ("id", "words", "head", "deps")}
    text, places = _text(sentence.comments, [form for form, _, _ in surface], [space for _, space, _ in surface], counts)
    offsets: list[list[int]] = []
    for (form, _, count), (start, end) in zip(surface, places, strict=True):
        own = words[len(offsets) : len(offsets) + count]
        inner = [[0, len(form)]] if count == 1 else offsets_of(own, form)
        offsets += [[start + a, start + b] for a, b in inner] if inner else [[start, end]] * count
    return {"text": text, "words": words, "offsets": offsets, **layers, "head": heads}


def _cell(cells: Sequence[str], index: int) -> str | None:
    """A cell; None where `_` says that nothing is annotated (no features is an annotation, and `_` the lemma of `_`)."""
    value = cells[index]
    return None if value == "_" and FIELDS[index] in ("lemma", "upos", "xpos", "deprel") and cells[1] != "_" else value


def _text(comments: Sequence[str], forms: Sequence[str], spaces: Sequence[bool], counts: Counter[str]) -> tuple[str, list[list[int]]]:
    """The text that a comment gives, where the words are found in it; else the words joined."""
    given = next((c.partition("=")[2].strip() for c in comments if re.match(r"text\s*=", c)), None)
    found = offsets_of(forms, given) if given is not None else None
    if given is not None and found is not None:
        return given, found
    if given is not None:
        counts["sentences whose text is not their words; the words were joined"] += 1
    return joined(forms, spaces)


def read_columns(content: str, path: Path, result: Rows, names: Sequence[str] | None = None, *, first: int = 1) -> None:
    """Columns of words and tags. `names` are those of the columns, in order; found in the file where None.

    Found are: a running number (`id`); the words, which come first; the tags, the last column in which all
    cells are O, B-..., I-... and the like, else the last; the others are `column3` and so on, from 1.
    """
    body = [line for line in content.split("\n") if line.strip() and not line.startswith("#")]
    separator = "\t" if sum("\t" in line for line in body) > len(body) // 2 else None
    found = list(sentences(content, separator=separator, first=first))
    table = [[line.rstrip().split(separator) for _, line in s.lines] for s in found]
    documents = sum(s[0][0] == DOCUMENT for s in table)
    if documents:
        result.notes.append(f"{path.name}: {documents} lines {DOCUMENT} left out")
    known = [(s, rows) for s, rows in zip(found, table, strict=True) if rows[0][0] != DOCUMENT]
    if not known:
        return
    columns = _named(names, path) if names else _columns([rows for _, rows in known], path)
    if not names:
        result.notes.append(f"{path.name}: columns read as {', '.join(columns)}")
    needed = 1 + max(columns.index("words"), columns.index("tags") if "tags" in columns else 0, len(columns) - 1 if names else 0)
    counts: Counter[str] = Counter()
    for sentence, rows in known:
        short = next((number for (number, _), cells in zip(sentence.lines, rows, strict=True) if len(cells) < needed), None)
        if short is not None:
            width = len(rows[short - sentence.line])
            reason = f"{width} columns where the file has {needed}, in line {short}"
            result.quarantined.append(Quarantined(str(path), sentence.line, reason, " ".join(line for _, line in sentence.lines)[:200]))
            continue
        layers = {name: [c[i] if i < len(c) else None for c in rows] for i, name in enumerate(columns) if name != "id"}
        words = [str(w) for w in layers["words"]]
        text, offsets = _text(sentence.comments, words, [True] * len(words), counts)
        result.rows.append(Row({"text": text, "offsets": offsets, **layers}, str(path), sentence.line))
    result.notes += [f"{path.name}: {count} {what}" for what, count in counts.items()]


def _named(names: Sequence[str], path: Path) -> list[str]:
    if "words" not in names:
        raise DataError("no column is called 'words'", where="data.columns", remedy=f"call the words of {path.name} so")
    return list(names)


def _columns(table: list[list[list[str]]], path: Path) -> list[str]:
    """Names of the columns, from what stands in them."""
    lines = [cells for rows in table for cells in rows]
    width = Counter(map(len, lines)).most_common(1)[0][0]
    numbered = width > 2 and all([c[0] for c in rows] == [str(i) for i in range(1, len(rows) + 1)] for rows in table[:200])
    first = int(numbered)
    if width < first + 2:
        raise DataError("has words only, no tags", where=str(path), remedy="a line is a word and its tag, with a tab or a space between")
    tagged = [i for i in range(first + 1, width) if all(TAG.fullmatch(c[i]) for c in lines if len(c) > i)]
    tags = tagged[-1] if tagged else width - 1
    fixed = {0: "id"} if numbered else {}
    fixed |= {first: "words", tags: "tags"}
    return [fixed.get(i, f"column{i + 1}") for i in range(width)]
