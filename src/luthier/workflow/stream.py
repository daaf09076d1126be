"""The updates of a training, as its recipe, task and layout want them: for training, rehearsing, timing and planning alike."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    """Every update over the training part; `above` lays beside a batch what its frozen layers give, `course` orders the rows."""
    return UpdateStream(
        tokens.examples(),
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
