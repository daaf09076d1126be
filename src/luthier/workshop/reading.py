"""How a file is to be read where its name does not say: tables without a header line, and tables or labelled lines called .txt.

Enters: files as a user names them. Leaves: a stream, and the recipe values that read it the same way, each with its reason.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from luthier.data.sources.inputs import expand, format_of
from luthier.data.sources.opened import opened
from luthier.data.sources.source import Reading
from luthier.data.stream import Stream, open_stream
from luthier.recipe.imports.draft import Told
from luthier.workshop.columns import looks_like_data

HEAD = 1 << 16
FEWEST = 10
"""Texts in a file from which on what stands between them is told."""
LABELLED = re.compile(r"(__label__\S+ |[A-Z]{2,}:\w+ )\S")
"""How lines begin that stand after their label, in fastText's files and in TREC's."""


@dataclass(frozen=True)
class Opened:
    """A stream, how it was read, and what a recipe must say to read its files so."""

    stream: Stream
    reading: Reading
    values: dict[str, Told]


def open_files(files: Sequence[str], reading: Reading | None = None) -> Opened:
    """Survey files, as asked or as they tell. Raises DataError for one that cannot be read."""
    values = dict[str, Told]()
    inputs, _ = expand(list(files))
    first = inputs[0].path
    if reading is None and first is not None:
        reading, values = _told(first, alone=len(inputs) == 1)
    found = reading or Reading()
    stream = open_stream(files, found)
    source = stream.sources[0]
    if source.dialect is not None and found.columns is None and looks_like_data(source.schema.names):
        names = [f"column_{i}" for i in range(1, len(source.schema.names) + 1)]
        found = replace(found, columns=names)
        values["data.columns"] = Told(names, "the first line is a row like the others, so that columns get names here")
        stream = open_stream(files, found)
    return Opened(stream, found, values)


def _told(path: Path, *, alone: bool) -> tuple[Reading, dict[str, Told]]:
    """What the first lines of a text file tell; what stands between its texts only where it is `alone`."""
    if format_of(path) != "text":
        return Reading(), {}
    with opened(path) as stream:
        content = stream.read(HEAD).decode("utf-8", "replace").lstrip("\ufeff").replace("\r\n", "\n")
    lines = content.split("\n")
    lines = [line for line in (lines[:-1] if len(lines) > 1 else lines) if line.strip()]
    if len(lines) < 2:
        return Reading(), {}
    if all(LABELLED.match(line) for line in lines):
        return Reading(format="labelled"), {"data.format": Told("labelled", "every line begins with its label")}
    tabs = {line.count("\t") for line in lines}
    if len(tabs) == 1 and tabs != {0}:
        return Reading(format="tsv"), {"data.format": Told("tsv", f"every line has {tabs.pop()} tab(s), whatever the file's name says")}
    for mark, what in () if not alone else (("\n\n", "empty lines stand"), ("\n", "line breaks stand")):
        if sum(bool(part.strip()) for part in content.split(mark)) >= FEWEST:
            why = f"{what} between its texts; a file is one text otherwise, and one cannot be shared out"
            return Reading(separator=mark), {"data.separator": Told(mark, why)}
    return Reading(), {}
