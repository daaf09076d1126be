"""The updates of a training, as its recipe, task and layout want them: for training, rehearsing, timing and planning alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from luthier.data.prepare import Record
from luthier.data.tokens import Tokens
from luthier.models.batch import Batch
from luthier.models.forward import Layout
from luthier.recipe.sections import Training
from luthier.training.batches import UpdateStream
from luthier.training.curriculum import Course


def taken(course: Course, streams: Sequence[str], *, size: int, updates: int) -> dict[str, int]:
    """How many examples of each stream the first so many updates have, given each example's stream."""
    found = dict.fromkeys(streams, 0)
    epoch = 0
    while updates > 0:
        rows = course.rows(epoch)
        for row in rows[: updates * size]:
            found[streams[row]] += 1
        updates, epoch = updates - -(-len(rows) // size), epoch + 1
    return found


class Foreseen(Sequence[Mapping[str, Any]]):
    """Examples as something makes them, when they are looked at."""

    def __init__(self, examples: Sequence[Mapping[str, Any]], made: Callable[[Mapping[str, Any]], Mapping[str, Any]]) -> None:
        self._examples, self._made = examples, made

    def __len__(self) -> int:
        return len(self._examples)

    def __getitem__(self, place: Any) -> Any:
        return self._made(self._examples[place])


def stream(
    tokens: Tokens,
    records: Sequence[Record],
    task: Any,
    options: Training,
    layout: Layout,
    *,
    above: Callable[[Batch], Batch] | None = None,
    course: Course | None = None,
) -> UpdateStream:
    """Every update over the training part; `above` lays beside a batch what its frozen layers give, `course` orders the rows.

    Of a task that learns from its own answers, which are drawn later, examples are as large as they may become.
    """
    return UpdateStream(
        Foreseen(tokens.examples(), task.heaviest) if getattr(task, "rolls", False) else tokens.examples(),
        task.targets(records),
        size=options.batch_size * options.gradient_accumulation,
        max_tokens=options.max_tokens,
        seed=options.seed,
        types=layout.token_types,
        padded=layout.kind == "padded",
        alter=task.alter if task.alters else None,
        above=above,
        course=course,
    )
