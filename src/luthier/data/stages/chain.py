"""Stages one after the other, over batches: the engine of `luthier data clean` and of a recipe's `data.clean`.

Stages are cut into legs: each leg begins with at most one stage that must see all rows first, so that the leg before must
be through. Within a leg a batch goes from stage to stage, and rows that one drops are not seen by the next.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from luthier.data.books import Fate
from luthier.data.stages.stage import FILE, LINE, Looker, Stage, Verdicts, make

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from luthier.recipe.stages.options import StageOptions


class Named(NamedTuple):
    """Options with the name that the books have for the stage."""

    name: str
    options: StageOptions


def legs(stages: Sequence[StageOptions]) -> list[list[Named]]:
    """The stages, cut before each that must see all rows first."""
    found: list[list[Named]] = [[]]
    for number, options in enumerate(stages, 1):
        if options.sees_all and found[-1]:
            found.append([])
        found[-1].append(Named(f"{number} {options.type}", options))
    return found


@dataclass(frozen=True)
class Passed:
    """What came through a leg: the rows that stay, which of them were changed so far, and what became of each."""

    batch: pa.RecordBatch
    changed: NDArray[np.bool_]
    fates: list[Fate]
    counts: dict[str, Counter[str]]


class Leg:
    """The stages of a leg, made for batches of a schema."""

    def __init__(self, stages: Sequence[Named], schema: pa.Schema, *, text: Sequence[str]) -> None:
        self._stages: list[tuple[str, Stage]] = []
        self.sees_all = bool(stages) and stages[0].options.sees_all
        for name, options in stages:
            made = make(options, schema, text=text)
            self._stages.append((name, made))
            schema = made.schema
        self.schema = schema

    def look(self, batches: Iterable[pa.RecordBatch]) -> None:
        """Show all rows to the stage that must see them."""
        if not self.sees_all:
            return
        first = cast(Looker, self._stages[0][1])
        for batch in batches:
            first.look(batch)
        first.settle()

    def __call__(self, batch: pa.RecordBatch, changed: NDArray[np.bool_]) -> Passed:
        fates: list[Fate] = []
        counts: dict[str, Counter[str]] = {}
        for name, stage in self._stages:
            if not batch.num_rows:
                batch = empty(stage.schema)
                continue
            said = stage(batch)
            if said.batch.num_rows != batch.num_rows:
                raise AssertionError(f"stage {name} made {said.batch.num_rows} rows of {batch.num_rows}")
            if said.counts:
                counts.setdefault(name, Counter()).update(said.counts)
            fates += _fates(name, said, batch)
            changed = changed.copy()
            changed[list(said.changed)] = True
            batch, changed = _kept(said, changed)
        return Passed(batch, changed, fates, counts)


def _fates(name: str, said: Verdicts, batch: pa.RecordBatch) -> list[Fate]:
    if not said.dropped and not said.changed:
        return []
    files, lines = batch.column(FILE).to_pylist(), batch.column(LINE).to_pylist()
    found = []
    for place in sorted({*said.dropped, *said.changed}):
        if place in said.dropped:
            found.append(Fate(files[place], lines[place], "dropped", name, said.dropped[place]))
        else:
            found.append(Fate(files[place], lines[place], "changed", name, said.changed[place]))
    return found


def _kept(said: Verdicts, changed: NDArray[np.bool_]) -> tuple[pa.RecordBatch, NDArray[np.bool_]]:
    import numpy as np
    import pyarrow as pa

    if not said.dropped:
        return said.batch, changed
    stays = np.ones(len(changed), bool)
    stays[list(said.dropped)] = False
    return said.batch.filter(pa.array(stays)), changed[stays]


def empty(schema: pa.Schema) -> Any:
    """A batch without rows."""
    import pyarrow as pa

    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
