"""A recipe's rows through its stages: what `data.clean` does before rows become records.

Enters: the rows of each part, as read. Leaves: those that stay, and the books. All parts are seen together, those for
testing first: of two rows that repeat each other the one for training goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.data.books import Books
from luthier.data.rows import Quarantined, Row, Rows
from luthier.data.sources.kinds import Kinds, column, is_json, unfit, values
from luthier.data.split import Part
from luthier.data.stages.chain import Leg, legs
from luthier.data.stages.stage import FILE, LINE, ROW

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.sections import Data

ORDER: tuple[Part, ...] = ("test", "validation", "train")
BATCH = 8192


def tidied(parts: Mapping[Part, Rows], data: Data) -> tuple[dict[Part, Rows], Books]:
    """The parts after the stages of `data.clean`; what no table can hold is quarantined. Raises DataError for columns not there."""
    import numpy as np

    found = {part: Rows([], list(rows.quarantined), list(rows.notes)) for part, rows in parts.items()}
    entries: list[tuple[Part, Row]] = []
    kinds = Kinds()
    for part in ORDER:
        for row in parts[part].rows if part in parts else ():
            kinds.add(row.values, row.file)
            entries.append((part, row))
    books = Books(read=len(entries))
    batches, sound = _batches(entries, kinds.schema(), found)
    books.read -= len(entries) - len(sound)
    schema = batches[0].schema if batches else _with_origin(kinds.schema())
    stream = [(batch, np.zeros(batch.num_rows, bool)) for batch in batches]
    for stages in legs(data.clean):
        leg = Leg(stages, schema, text=[data.text, *([data.text_pair] if data.text_pair else [])])
        leg.look(batch for batch, _ in stream)
        passed = [leg(batch, changed) for batch, changed in stream]
        schema, stream = leg.schema, [(p.batch, p.changed) for p in passed]
        for p in passed:
            for fate in p.fates:
                books.enter(fate)
            for name, counter in p.counts.items():
                books.counts.setdefault(name, Counter()).update(counter)
    for batch, changed in stream:
        books.kept += batch.num_rows
        books.changed += int(changed.sum())
        for number, new, is_new in zip(batch.column(ROW).to_pylist(), values(batch), changed.tolist(), strict=True):
            part, row = sound[number]
            found[part].rows.append(_renewed(row, new, batch.schema) if is_new or len(schema) > len(batches[0].schema) else row)
    books.check()
    return found, books


def _batches(entries: list[tuple[Part, Row]], schema: pa.Schema, found: dict[Part, Rows]) -> tuple[list[Any], list[tuple[Part, Row]]]:
    """The rows as batches, and those rows; the number of a row in the batches is its place in the list."""
    import pyarrow as pa

    sound: list[tuple[Part, Row]] = []
    for part, row in entries:
        fault = unfit(row.values) if any(isinstance(v, str) and not _plain(v) for v in row.values.values()) else ""
        if fault:
            found[part].quarantined.append(Quarantined(row.file, row.line, fault, ""))
        else:
            sound.append((part, row))
    batches = []
    for start in range(0, len(sound), BATCH):
        some = [row for _, row in sound[start : start + BATCH]]
        arrays = [column([r.values.get(f.name) for r in some], f) for f in schema]
        arrays += [
            pa.array([r.file for r in some]).dictionary_encode(),
            pa.array([r.line for r in some], pa.int64()),
            pa.array(range(start, start + len(some)), pa.int64()),
        ]
        batches.append(pa.RecordBatch.from_arrays(arrays, schema=_with_origin(schema)))
    return batches, sound


def _with_origin(schema: pa.Schema) -> pa.Schema:
    import pyarrow as pa

    told = [pa.field(FILE, pa.dictionary(pa.int32(), pa.string())), pa.field(LINE, pa.int64()), pa.field(ROW, pa.int64())]
    return pa.schema([*schema, *told])


def _plain(text: str) -> bool:
    if text.isascii():
        return True
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _renewed(row: Row, new: dict[str, Any], schema: pa.Schema) -> Row:
    """The row with what stages changed; what they cannot have changed, and what was not there, stays so."""
    taken = {
        name: value
        for name, value in new.items()
        if (name not in row.values and value is not None) or (name in row.values and not is_json(schema.field(name)))
    }
    return Row({**row.values, **taken}, row.file, row.line)
