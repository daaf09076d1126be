"""Missing values: dropped, filled or flagged."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from luthier.data.stages.stage import Verdicts
from luthier.data.stages.texts import need, own_columns
from luthier.errors import DataError

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from luthier.recipe.stages.missing import MissingOptions


class Missing:
    """A cell is missing where it is null, not a number, an empty list, or a text that is a marker."""

    def __init__(self, options: MissingOptions, schema: pa.Schema) -> None:
        import pyarrow as pa

        self._options = options
        self._columns = options.columns or own_columns(schema)
        need(schema, self._columns, stage="missing")
        self._markers = pa.array(sorted({m.strip() for m in options.markers}), pa.string())
        self.schema = schema
        if options.how == "flag":
            for name in self._columns:
                if flag_of(name) in schema.names:
                    raise DataError(f"a column {flag_of(name)!r} is there already", where="missing", remedy="rename it")
                self.schema = self.schema.append(pa.field(flag_of(name), pa.bool_()))
        self._fills = {name: self._fill(schema.field(name)) for name in self._columns} if options.how == "fill" else {}

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        import numpy as np

        masks = {name: self._missing(batch.column(name)) for name in self._columns}
        counts = {f"missing in {name}": int(m.sum()) for name, m in masks.items() if m.any()}
        if self._options.how == "drop":
            every = np.stack(list(masks.values()))
            rows = np.flatnonzero(every.any(0) if self._options.when == "any" else every.all(0))
            return Verdicts(batch, dropped={int(i): self._reason(masks, int(i)) for i in rows}, counts=counts)
        changed = {int(i): f"{self._options.how}: {name}" for name, mask in masks.items() for i in np.flatnonzero(mask)}
        return Verdicts(self._filled(batch, masks) if self._fills else self._flagged(batch, masks), changed=changed, counts=counts)

    def _missing(self, array: pa.Array) -> NDArray[np.bool_]:
        import pyarrow as pa
        import pyarrow.compute as pc

        found = pc.is_null(array, nan_is_null=True)
        if pa.types.is_string(array.type):
            found = pc.or_(found, pc.fill_null(pc.is_in(pc.utf8_trim_whitespace(array), self._markers), True))
        elif pa.types.is_list(array.type):
            found = pc.or_(found, pc.fill_null(pc.equal(pc.list_value_length(array), 0), True))
        return found.to_numpy(zero_copy_only=False)

    def _reason(self, masks: dict[str, NDArray[np.bool_]], row: int) -> str:
        return "missing: " + ", ".join(name for name, mask in masks.items() if mask[row])

    def _fill(self, field: pa.Field) -> Any:
        import pyarrow as pa

        value = self._options.value
        try:
            return pa.scalar(str(value) if pa.types.is_string(field.type) else value, field.type)
        except (pa.ArrowException, TypeError, ValueError):
            raise DataError(
                f"{value!r} cannot stand in column {field.name!r}, which holds {field.type}",
                where="missing",
                remedy="name the columns that it is for: columns: [...]",
            ) from None

    def _filled(self, batch: pa.RecordBatch, masks: dict[str, NDArray[np.bool_]]) -> pa.RecordBatch:
        import pyarrow as pa
        import pyarrow.compute as pc

        arrays = list(batch.columns)
        for name, mask in masks.items():
            if mask.any():
                place = batch.schema.get_field_index(name)
                arrays[place] = pc.if_else(pa.array(mask), self._fills[name], arrays[place])
        return pa.RecordBatch.from_arrays(arrays, schema=batch.schema)

    def _flagged(self, batch: pa.RecordBatch, masks: dict[str, NDArray[np.bool_]]) -> pa.RecordBatch:
        import pyarrow as pa

        return pa.RecordBatch.from_arrays([*batch.columns, *(pa.array(m) for m in masks.values())], schema=self.schema)


def flag_of(name: str) -> str:
    """The column that says where another is missing."""
    return f"{name}_missing"
