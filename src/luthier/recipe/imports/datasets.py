"""Data sets as other tools name them: files, folders, or ids on a hub.

Enters: names. Leaves: `data.train` or `data.validation` in a draft; what is not at hand is left to fill in.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from luthier.recipe.imports.draft import Draft, Left

HUB = re.compile(r"[\w.-]+/[\w.-]+")
DATA = (".json", ".jsonl", ".csv", ".tsv", ".parquet", ".txt", ".gz", ".arrow")
COMMIT = re.compile(r"[0-9a-f]{40}")
GUESSED = "train.*"


class Named(NamedTuple):
    """A data set by name, the key that names it, files inside it, its commit, and what to say where it is not found."""

    name: str
    key: str
    files: Sequence[str] = ()
    revision: str | None = None
    why: str = "no such file from here: correct the path"


def put_data(draft: Draft, sets: Sequence[Named], *, part: str = "train") -> list[Path]:
    """Name the files of a part in the draft; returns those that are at hand.

    A recipe takes files, or one public data set: where both are named, the files are taken.
    """
    at_hand = [(s, path) for s in sets for path in _paths(draft, s)]
    names = [draft.beside(p) for _, p in at_hand]
    hub = [s for s in sets if not _paths(draft, s) and _on_hub(s.name)]
    for each in sets:
        if not _paths(draft, each) and not _on_hub(each.name):
            names.append(each.name)
            draft.to_fill.append(Left(f"data.{part}", each.name, each.why))
    keys = ", ".join(dict.fromkeys(s.key for s in sets))
    if names:
        draft.put(f"data.{part}", names if len(names) > 1 else names[0], keys)
    elif hub and part == "train":
        _public(draft, hub.pop(0))
    for each in hub:
        draft.leave(each.key, f"fetch {each.name}, and name its files in data.{part}", value=each.name)
    return [p for _, p in at_hand]


def _paths(draft: Draft, named: Named) -> list[Path]:
    found = draft.local(named.name)
    if found is None:
        return []
    return [found / f for f in named.files] if named.files and found.is_dir() else [found]


def _on_hub(name: str) -> bool:
    return HUB.fullmatch(name) is not None and not name.lower().endswith(DATA) and not name.startswith(".")


def _public(draft: Draft, named: Named) -> None:
    """A data set of the hub: its files must be at hand, or its commit known."""
    name = named.name.rpartition("/")[2]
    draft.put("data.name", name, named.key)
    pinned = named.revision is not None and COMMIT.fullmatch(named.revision)
    if pinned:
        draft.put("data.origin", f"hf:{named.name}@{named.revision}", f"{named.key} at its revision")
    if named.files:
        draft.put("data.train", list(named.files), named.key)
        if not pinned:
            draft.to_fill.append(_pin(named, f"put its files into $LUTHIER_DATA/{name}"))
    else:
        draft.fill("data.train", GUESSED, f"which files of {named.name}; they are looked for in $LUTHIER_DATA/{name}")
        if not pinned:
            draft.to_fill.append(_pin(named, "or have them fetched"))


def _pin(named: Named, what: str) -> Left:
    return Left("data.origin", None, f"{what}: hf:{named.name}@COMMIT, with the full commit")


def columns_of(path: Path) -> list[str]:
    """The columns of a file's first row; none where it cannot be told without reading it all."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            if path.suffix == ".jsonl":
                first = json.loads(next(line for line in file if line.strip()))
            elif path.suffix == ".json":
                rows = json.load(file)
                first = rows[0] if isinstance(rows, list) and rows else {}
            elif path.suffix in (".csv", ".tsv"):
                return next(csv.reader(file, delimiter="\t" if path.suffix == ".tsv" else ","), [])
            else:
                return []
    except (OSError, ValueError, StopIteration):
        return []
    return list(first) if isinstance(first, dict) else []
