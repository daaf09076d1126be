"""What a stage is: a batch of rows in, a verdict on each of them out.

A stage is made from its options and the columns it will see, and is called batch by batch, in order. What it says of
a batch depends on the batch alone, so that a run which was killed goes on at the next batch. A stage that must have seen
all rows first is a `Looker`: it is shown every batch, then `settle`s, then is called like any other.

Beside the file's own columns a batch has `__file` and `__line`, where a row was read, and `__row`, its number in the
whole input; a stage leaves these as they are.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from luthier.recipe.stages.options import JudgingOptions
from luthier.registry import STAGES

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.options import StageOptions

FILE, LINE, ROW = "__file", "__line", "__row"
ORIGIN = (FILE, LINE, ROW)
"""The columns that say where a row came from."""
JSON = {b"luthier": b"json"}
"""The mark of a column whose texts are JSON: its values are nested, or of several types."""


@dataclass(frozen=True)
class Verdicts:
    """What a stage made of a batch.

    `batch` has as many rows as came in, those to be dropped too; `dropped` and `changed` say why, by place in the batch.
    `counts` are figures for the report, added up over all batches.
    """

    batch: pa.RecordBatch
    dropped: Mapping[int, str] = field(default_factory=dict)
    changed: Mapping[int, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


class Stage(Protocol):
    """Made as `Class(options, schema)`, where the schema is of the batches to come. Raises DataError for columns that are not there."""

    schema: pa.Schema
    """Of the batches that leave."""

    def __call__(self, batch: pa.RecordBatch) -> Verdicts: ...


class Looker(Stage, Protocol):
    """A stage whose options say `sees_all`."""

    def look(self, batch: pa.RecordBatch) -> None: ...

    def settle(self) -> None: ...


def make(options: StageOptions, schema: pa.Schema, *, text: Sequence[str] = ("text",)) -> Stage:
    """The stage of some options, for batches of a schema. One that judges rows and names no column looks at the `text` ones."""
    if isinstance(options, JudgingOptions) and options.columns is None:
        options = options.model_copy(update={"columns": [name for name in text if name in schema.names] or None})
    made: Stage = STAGES.load(options.type)(options, schema)
    return made
