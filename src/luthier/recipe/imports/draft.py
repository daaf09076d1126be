"""A recipe in the making: what a foreign configuration says, key by key, and what became of each.

Enters: the keys of another tool's file. Leaves: recipe values with their origin, and three lists: what is
left to fill in, what could not be taken over (with the reason), and what has no meaning here.
"""

from __future__ import annotations

import os
import re
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from luthier.errors import Fault, RecipeError
from luthier.registry import nearest

SECRET = ("api_key", "hub_token", "auth_token", "secret", "password")
"""Ends of keys whose value is never shown."""


class Left(NamedTuple):
    """A key that needs a person: its value, and why or what to do."""

    key: str
    value: Any
    why: str


class Told(NamedTuple):
    """A value of the recipe and where it came from."""

    value: Any
    origin: str


@dataclass
class Draft:
    """The work of one import. `folder` is where the recipe will lie."""

    tool: str
    keys: Mapping[str, Any]
    file: Path
    folder: Path
    values: dict[str, Told] = field(default_factory=dict)
    to_fill: list[Left] = field(default_factory=list)
    lost: list[Left] = field(default_factory=list)
    unneeded: list[str] = field(default_factory=list)
    info: Path | None = None
    """The folder that names of data sets are relative to, where it is another than the file's."""
    _seen: dict[str, None] = field(default_factory=dict)

    def take(self, key: str) -> Any:
        """The value of a key, which thereby counts as dealt with; None where it is absent or empty."""
        self._seen[key] = None
        value = self.keys.get(key)
        return None if value == "" or value == [] or value == {} else value

    def put(self, path: str, value: Any, origin: str) -> None:
        """Set a value of the recipe."""
        self.values[path] = Told(value, origin)

    def same(self, table: Mapping[str, str]) -> None:
        """Keys that mean exactly what a field of the recipe means."""
        for key, path in table.items():
            value = self.take(key)
            if value is not None:
                self.put(path, value, key)

    def default(self, path: str, value: Any) -> None:
        """What the tool does where its file says nothing, and Luthier would do otherwise."""
        if path not in self.values:
            self.put(path, value, f"{self.tool}'s default")

    def leave(self, key: str, why: str, *, value: Any = None) -> None:
        """A key that cannot be taken over."""
        self._seen[key] = None
        self.lost.append(Left(key, _shown(key, self.keys.get(key) if value is None else value), why))

    def fill(self, path: str, value: Any, why: str) -> None:
        """A value that only the user knows; what stands there holds the place."""
        self.put(path, value, "to fill in")
        self.to_fill.append(Left(path, value, why))

    def refuse(self, key: str, why: str, remedy: str | None = None) -> RecipeError:
        """The error for a file that asks for something that Luthier does not do."""
        return RecipeError([Fault(f"{key}: {_shown(key, self.keys.get(key))} {why}", str(self.file), remedy)])

    def rest(self, *, unneeded: Iterable[str], prefixes: tuple[str, ...] = (), why: Mapping[str, str], known: Collection[str]) -> None:
        """Account for every key that is left, in the file's order."""
        silent, told = set(unneeded), {*self.unneeded, *(left.key for left in self.lost)}
        origins = " ".join(t.origin for t in self.values.values())
        told |= set(re.findall(r"\w+", origins))
        for key, value in self.keys.items():
            if key in self._seen:
                if key not in told:  # it was read, and asks for what is done anyway, or for nothing
                    self.unneeded.append(key)
                continue
            empty = value in (None, False, "", "no", "none") or value == [] or value == {}
            if empty or key in silent or key.startswith(prefixes):
                self.unneeded.append(key)
            elif key in why:
                self.leave(key, why[key])
            elif key in known:
                self.leave(key, "has no part beside the file's other keys")
            else:
                guess = nearest(key, [k for k in known if k not in self.keys])
                self.leave(key, "is not known here" + (f"; is it {guess}?" if guess else ""))

    def local(self, name: str) -> Path | None:
        """A file or folder that the configuration names: beside it, above it, or in the working folder."""
        for base in (self.file.parent, Path.cwd(), *self.file.resolve().parents[1:4]):
            path = base / Path(name).expanduser()
            if path.exists():
                return path
        return None

    def beside(self, path: Path) -> str:
        """A path as the recipe should name it: relative where it lies under the recipe's folder."""
        path, folder = path.resolve(), self.folder.resolve()
        return os.path.relpath(path, folder) if path.is_relative_to(folder) else str(path)


def _shown(key: str, value: Any) -> Any:
    return "(not shown)" if key.lower().endswith(SECRET) else value
