"""Lengths: rows that are too short, too long, or unlike the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from luthier.data.stages.stage import Verdicts
from luthier.data.stages.texts import joined, text_columns

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray

    from luthier.recipe.stages.length import LengthOptions

SCALE = 1.4826
"""Times the median deviation, of a normal distribution: its standard deviation."""


class Length:
    """Bounds by the user, and, where `outliers` is given, by the median of all lengths and their median deviation."""

    def __init__(self, options: LengthOptions, schema: pa.Schema) -> None:
        self.schema, self._options = schema, options
        self._columns = text_columns(schema, options.columns, stage="length")
        self._seen: dict[int, int] = {}
        self._low, self._high = 0.0, float("inf")

    def look(self, batch: pa.RecordBatch) -> None:
        if self._options.outliers is not None:
            for length in self._lengths(batch).tolist():
                self._seen[length] = self._seen.get(length, 0) + 1

    def settle(self) -> None:
        import numpy as np

        if self._options.outliers is None or not self._seen:
            return
        lengths = np.array(sorted(self._seen))
        logs, times = np.log1p(lengths), np.array([self._seen[n] for n in lengths.tolist()])
        middle = _median(logs, times)
        spread = SCALE * _median(np.abs(logs - middle), times)
        if spread > 0:  # where most lengths are equal nothing says what is far
            self._low = float(np.expm1(middle - self._options.outliers * spread))
            self._high = float(np.expm1(middle + self._options.outliers * spread))

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        options, dropped = self._options, dict[int, str]()
        for row, length in enumerate(self._lengths(batch).tolist()):
            shown = f": {length} {options.unit}"
            if options.at_least is not None and length < options.at_least:
                dropped[row] = "too short" + shown
            elif options.at_most is not None and length > options.at_most:
                dropped[row] = "too long" + shown
            elif not self._low <= length <= self._high:
                dropped[row] = "unlike the other lengths" + shown
        return Verdicts(batch, dropped=dropped)

    def _lengths(self, batch: pa.RecordBatch) -> NDArray[np.int64]:
        import numpy as np

        count = (lambda t: len(t.split())) if self._options.unit == "words" else len
        return np.fromiter(map(count, joined(batch, self._columns)), np.int64, batch.num_rows)


def _median(values: NDArray[np.float64], times: NDArray[np.int64]) -> float:
    """The median of values that occur so many times each."""
    import numpy as np

    order = np.argsort(values)
    reached = np.cumsum(times[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])
