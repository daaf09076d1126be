"""Boilerplate: lines that stand in many rows, taken out of texts of several lines."""

from __future__ import annotations

import hashlib
import math
from typing import TYPE_CHECKING

from luthier.data.stages.stage import Verdicts
from luthier.data.stages.texts import replaced, text_columns

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.boilerplate import BoilerplateOptions

MOST_LINES = 5_000_000
"""Lines that are counted; of more, those seen but once are forgotten now and then."""


class Boilerplate:
    """Lines are counted by a hash, once a row; a row whose texts of several lines are all boilerplate alone is dropped."""

    def __init__(self, options: BoilerplateOptions, schema: pa.Schema) -> None:
        self.schema, self._options = schema, options
        self._columns = text_columns(schema, options.columns, stage="boilerplate")
        self._rows, self._seen = 0, dict[int, int]()
        self._frequent: set[int] = set()

    def look(self, batch: pa.RecordBatch) -> None:
        seen = self._seen
        self._rows += batch.num_rows
        for name in self._columns:
            for text in batch.column(name).to_pylist():
                if text and "\n" in text:
                    for key in {k for line in text.split("\n") if (k := self._key(line)) is not None}:
                        seen[key] = seen.get(key, 0) + 1
        if len(seen) > MOST_LINES:
            self._seen = {k: n for k, n in seen.items() if n > 1}

    def settle(self) -> None:
        enough = max(self._options.min_rows, math.ceil(self._options.share * self._rows))
        self._frequent = {key for key, count in self._seen.items() if count >= enough}

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        values, lines_of, dropped = {}, dict[int, int](), dict[int, str]()
        for name in self._columns if self._frequent else ():
            texts = batch.column(name).to_pylist()
            for row, text in enumerate(texts):
                if not text or "\n" not in text:
                    continue
                lines = text.split("\n")
                kept = [line for line in lines if self._key(line) not in self._frequent]
                if len(kept) == len(lines):
                    continue
                texts[row] = "\n".join(kept) if any(line.strip() for line in kept) else ""
                lines_of[row] = lines_of.get(row, 0) + len(lines) - len(kept)
            values[name] = texts
        for row in lines_of:
            several = [name for name in values if "\n" in (batch.column(name)[row].as_py() or "")]
            if not any(values[name][row].strip() for name in several):
                dropped[row] = "boilerplate alone"
        changed = {row: f"boilerplate: {count} lines" for row, count in lines_of.items() if row not in dropped}
        return Verdicts(replaced(batch, values) if changed else batch, dropped=dropped, changed=changed)

    def _key(self, line: str) -> int | None:
        """A hash of a line, its spaces aside; None for one that is too short."""
        line = " ".join(line.split())
        if len(line) < self._options.min_characters:
            return None
        return int.from_bytes(hashlib.blake2b(line.encode(), digest_size=8).digest())
