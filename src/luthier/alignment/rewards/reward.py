"""What a reward is: a function of a prompt, its completions and the row they come from.

Enters: messages, texts, a row. Leaves: a score for each text, higher is better, or None where there is none. Prompts, completions and
rows are data: no reward takes an instruction, an address or code from them, but for the sandbox, which runs what was written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from luthier.errors import RewardError

Messages = Sequence[Mapping[str, Any]]
Row = Mapping[str, Any]
Scores = Sequence[float | None]


@dataclass(frozen=True)
class Asked:
    """A prompt as messages, what was written for it, and the row it comes from."""

    prompt: Messages
    completions: Sequence[str]
    row: Row


@dataclass(frozen=True)
class Marks:
    """Scores of one prompt's completions; figures of each that are logged beside them; and why there is none, by place."""

    scores: Scores
    parts: Mapping[str, Scores] = field(default_factory=dict)
    faults: Mapping[int, str] = field(default_factory=dict)


class Reward(Protocol):
    """What every reward is. A class is made as `Class(options, folder=..., where=...)`; it may give Marks, with its options' `parts`.

    `folder` is the recipe's, `where` the reward's path in the recipe. Making one raises RewardError for what cannot be had.
    """

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> Scores | Marks:
        """A score for each completion."""
        ...


@runtime_checkable
class Together(Protocol):
    """A reward that would rather have everything at once; it keeps to its `timeout` itself."""

    def together(self, asked: Sequence[Asked]) -> Sequence[Marks]:
        """What it would give one by one. Where all fails for one reason it raises."""
        ...


@runtime_checkable
class Closing(Protocol):
    """A reward that holds threads or connections."""

    def close(self) -> None:
        """Let go of them."""
        ...


def cell(row: Row, column: str) -> Any:
    """What the row has in a column. Raises RewardError where it has none, or nothing in it."""
    value = row.get(column)
    if value is None or value == "":
        has = ", ".join(map(repr, list(row)[:12])) or "no columns"
        problem = f"the row has nothing in {column!r}" if column in row else f"the row has no column {column!r}"
        raise RewardError(problem, remedy=f"name the column that holds it; there are: {has}")
    return value


def beside(name: str, folder: Path) -> Path | None:
    """A file or folder that a recipe names, from the recipe's folder or the working folder; None where there is none."""
    found = [p for p in (folder / Path(name).expanduser(), Path.cwd() / Path(name).expanduser()) if p.exists()]
    return found[0].resolve() if found else None
