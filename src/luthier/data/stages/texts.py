"""What the stages share that look at texts: which columns those are, and changing each text of a batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.stages.stage import JSON, ORIGIN, Verdicts
from luthier.errors import DataError
from luthier.registry import nearest

if TYPE_CHECKING:
    import pyarrow as pa


def own_columns(schema: pa.Schema) -> list[str]:
    """The names of the columns that are the file's own."""
    return [n for n in schema.names if n not in ORIGIN]


def text_columns(schema: pa.Schema, wanted: Sequence[str] | None, *, stage: str) -> list[str]:
    """The columns of texts that a stage looks at: those wanted, or all.

    Raises DataError for one that is not there or holds no texts, and where there is none at all.
    """
    import pyarrow.types as kinds

    texts = [f.name for f in schema if f.name not in ORIGIN and (kinds.is_string(f.type) or kinds.is_large_string(f.type))]
    texts = [n for n in texts if not (schema.field(n).metadata or {}).items() >= JSON.items()]
    if wanted is None:
        if not texts:
            raise no_texts(schema, stage=stage)
        return texts
    need(schema, wanted, stage=stage)
    for name in wanted:
        if name not in texts:
            raise DataError(f"column {name!r} holds no texts", where=stage, remedy=f"columns of texts: {', '.join(texts[:20]) or 'none'}")
    return list(wanted)


def no_texts(schema: pa.Schema, *, stage: str) -> DataError:
    """The error for rows without a column of texts."""
    known = ", ".join(own_columns(schema)[:20])
    remedy = f"the columns are: {known}" if known else "no row could be read; luthier data report says why"
    return DataError("there is no column of texts", where=stage, remedy=remedy)


def need(schema: pa.Schema, wanted: Sequence[str], *, stage: str) -> None:
    """Raise DataError for a column that is not there."""
    known = own_columns(schema)
    for name in wanted:
        if name not in known:
            guess = nearest(name, known)
            remedy = (f"did you mean {guess!r}? " if guess else "") + f"the columns are: {', '.join(map(repr, known[:20]))}"
            raise DataError(f"no column {name!r}", where=stage, remedy=remedy)


def replaced(batch: pa.RecordBatch, columns: Mapping[str, Any]) -> pa.RecordBatch:
    """The batch with other values in some of its columns, its schema unchanged."""
    import pyarrow as pa

    arrays = [pa.array(columns[f.name], f.type) if f.name in columns else batch.column(i) for i, f in enumerate(batch.schema)]
    return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)


def retouched(batch: pa.RecordBatch, columns: Sequence[str], change: Callable[[str], str], *, reason: str) -> Verdicts:
    """The batch with `change` made to each text of the columns; a row that it changed says so."""
    values: dict[str, Any] = {}
    changed: dict[int, str] = {}
    for name in columns:
        before = batch.column(name).to_pylist()
        after = [None if t is None else change(t) for t in before]
        places = [i for i, (old, new) in enumerate(zip(before, after, strict=True)) if old != new]
        if places:
            values[name] = after
            changed.update(dict.fromkeys(places, reason))
    return Verdicts(replaced(batch, values) if values else batch, changed=changed)


def joined(batch: pa.RecordBatch, columns: Sequence[str]) -> Iterator[str]:
    """The texts of each row, a line break between them; nothing for a missing one."""
    lists = [batch.column(name).to_pylist() for name in columns]
    if len(lists) == 1:
        return ("" if t is None else t for t in lists[0])
    return ("\n".join("" if t is None else t for t in texts) for texts in zip(*lists, strict=True))
