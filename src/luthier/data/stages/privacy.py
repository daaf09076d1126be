"""Personal data and secrets: found in each text of a row, then masked, given pseudonyms, reported, or the row dropped.

The reason of a fate says what was found, by column and type, and never the value: `personal data: text: 2 email, 1 phone`. So the
fates beside the output are the audit, line by line, and the counts of the report its sums. Texts inside nested columns (messages of
a conversation) are looked at too, their keys are not.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from luthier.data.stages.stage import JSON, ORIGIN, Verdicts
from luthier.data.stages.texts import need, own_columns, replaced
from luthier.errors import DataError, Fault, RecipeError
from luthier.security.pii import Span, find
from luthier.security.pii.names import Finder
from luthier.security.pii.pseudonym import SHORTEST_SECRET, mask, pseudonymiser, rewrite

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.privacy import PrivacyOptions

Written = Literal["plain", "json"]
NAMES_OFF = "rows whose names of persons were not looked for: no `names` given"


class Privacy:
    """The stage; `names` finds the names of persons, where there is something to find them with."""

    def __init__(self, options: PrivacyOptions, schema: pa.Schema, *, names: Finder | None = None) -> None:
        self.schema, self._names, self._min_score = schema, names, options.min_score
        self._actions = options.action_of()
        self._columns = columns_with_texts(schema, options.columns, stage="privacy")
        self._pseudonym = pseudonymiser(_secret(options)) if "pseudonymise" in self._actions.values() else mask

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        seen: dict[int, list[str]] = {}
        lost: set[int] = set()
        counts: Counter[str] = Counter()
        values: dict[str, Any] = {}
        changed: set[int] = set()
        for name, written in self._columns.items():
            cells = batch.column(name).to_pylist()
            for place, (cell, found) in enumerate(zip(cells, self._found(cells, written), strict=True)):
                kinds = Counter(s.type for _, spans in found for s in spans)
                if not kinds:
                    continue
                seen.setdefault(place, []).append(f"{name}: " + ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items())))
                counts.update({f"{name}: {kind}": n for kind, n in kinds.items()})
                actions = {self._actions[kind] for kind in kinds}
                if "drop" in actions:
                    lost.add(place)
                elif actions - {"report"}:
                    cells[place] = self._rewritten(cell, found, written)
                    changed.add(place)
            values[name] = cells
        if self._names is None and "name" in self._actions:
            counts[NAMES_OFF] = len(batch)
        reasons = {place: "personal data: " + "; ".join(found) for place, found in seen.items()}
        return Verdicts(
            replaced(batch, values) if changed else batch,
            dropped={p: reasons[p] for p in sorted(lost)},
            changed={p: reasons[p] for p in sorted(changed - lost)},
            counts=counts,
        )

    def _found(self, cells: Sequence[Any], written: Written) -> list[list[tuple[str, list[Span]]]]:
        """For each cell its texts with their spans; the names of all of them are asked for at once."""
        texts = [_leaves(json.loads(cell) if written == "json" and cell is not None else cell) for cell in cells]
        flat = [t for held in texts for t in held]
        named: Sequence[Sequence[Span]] = self._names(flat) if self._names and "name" in self._actions and flat else [()] * len(flat)
        further = iter(named)
        return [
            [(text, find(text, types=self._actions, min_score=self._min_score, further=next(further))) for text in held] for held in texts
        ]

    def _rewritten(self, cell: Any, found: Sequence[tuple[str, list[Span]]], written: Written) -> Any:
        spans = dict(found)

        def change(text: str) -> str:
            return rewrite(text, [s for s in spans[text] if self._actions[s.type] != "report"], self._instead)

        return json.dumps(_walked(json.loads(cell), change), ensure_ascii=False) if written == "json" else _walked(cell, change)

    def _instead(self, span: Span, value: str) -> str:
        return self._pseudonym(span, value) if self._actions[span.type] == "pseudonymise" else mask(span, value)


def _secret(options: PrivacyOptions) -> str:
    secret = os.environ.get(options.secret, "")
    if len(secret) < SHORTEST_SECRET:
        problem = (
            f"the environment variable {options.secret} holds fewer than {SHORTEST_SECRET} characters"
            if secret
            else (f"pseudonyms need a secret, and the environment variable {options.secret} is not set")
        )
        remedy = f"export {options.secret}=$(openssl rand -hex 32), and keep it: the same secret gives the same pseudonyms"
        raise RecipeError([Fault(problem, "privacy.secret", remedy)])
    return secret


def columns_with_texts(schema: pa.Schema, wanted: Sequence[str] | None, *, stage: str) -> dict[str, Written]:
    """The columns that hold texts, flat or nested, and how: those wanted, or all. Raises DataError as `text_columns` does."""
    if wanted is not None:
        need(schema, wanted, stage=stage)
    found: dict[str, Written] = {}
    for column in schema:
        if column.name not in ORIGIN and (wanted is None or column.name in wanted) and _holds_texts(column.type):
            found[column.name] = "json" if (column.metadata or {}).items() >= JSON.items() else "plain"
    missing = [n for n in wanted or () if n not in found]
    if missing:
        raise DataError(f"column {missing[0]!r} holds no texts", where=stage, remedy="take it out of columns")
    if not found:
        raise DataError("there is no column of texts", where=stage, remedy=f"the columns are: {', '.join(own_columns(schema)[:20])}")
    return found


def _holds_texts(kind: Any) -> bool:
    import pyarrow.types as kinds

    if kinds.is_string(kind) or kinds.is_large_string(kind):
        return True
    return any(_holds_texts(kind.field(i).type) for i in range(kind.num_fields))


def _leaves(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    held = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return [text for part in held for text in _leaves(part)]


def _walked(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {key: _walked(part, change) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_walked(part, change) for part in value)
    return value
