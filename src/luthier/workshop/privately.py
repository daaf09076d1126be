"""Personal data in rows, counted by type and never shown: what the report may say of it, and rows that may be shown.

Enters: a table of rows. Leaves: counts by column and type, and the rows with masks in place of what was found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.data.sources.kinds import values
from luthier.data.stages.privacy import NAMES_OFF, Privacy
from luthier.errors import DataError
from luthier.recipe.stages.privacy import PrivacyOptions
from luthier.security.pii import find
from luthier.security.pii.pseudonym import mask, rewrite

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class Personal:
    """`by_column`: column -> type -> finds; `rows` with any; of how many."""

    by_column: Mapping[str, Mapping[str, int]]
    rows: int
    looked_at: int


def personal(table: pa.Table) -> Personal:
    """Count what is found in every text of the rows."""
    try:
        stage = Privacy(PrivacyOptions(action="mask"), table.schema)
    except DataError:  # no column of texts: nothing to find
        return Personal({}, 0, table.num_rows)
    counts: Counter[str] = Counter()
    rows = 0
    for batch in table.to_batches():
        verdicts = stage(batch)
        rows += len(verdicts.changed)
        counts.update({k: n for k, n in verdicts.counts.items() if k != NAMES_OFF})
    found: dict[str, dict[str, int]] = {}
    for name, count in sorted(counts.items(), key=lambda item: -item[1]):
        column, _, kind = name.rpartition(": ")
        found.setdefault(column, {})[kind] = count
    return Personal(found, rows, table.num_rows)


def shown(table: pa.Table, places: list[int]) -> list[dict[str, Any]]:
    """Some rows by their places, each text in them masked."""
    rows = [row for batch in table.take(places).to_batches() for row in values(batch)]
    return [{name: _masked(value) for name, value in row.items()} for row in rows]


def masked(text: str) -> str:
    """A text with masks in place of what was found."""
    return rewrite(text, find(text), mask)


def _masked(value: Any) -> Any:
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {key: _masked(part) for key, part in value.items()}
    return [_masked(part) for part in value] if isinstance(value, (list, tuple)) else value
