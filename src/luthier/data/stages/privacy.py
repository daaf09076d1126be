"""Personal data and secrets: found in each text of a row, then masked, given pseudonyms, reported, or the row dropped.

The reason of a fate says what was found, by column and type, and never the value: `personal data: text: 2 email, 1 phone`. So the
fates beside the output are the audit, line by line, and the counts of the report its sums. Texts inside nested columns (messages of
a conversation) are looked at too; a column's name, or a nested text's key, counts as a word beside it.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from luthier.data.stages.stage import JSON, ORIGIN, Verdicts
from luthier.data.stages.texts import need, no_texts, replaced
from luthier.errors import DataError, Fault, RecipeError
from luthier.security.pii import Span, find
from luthier.security.pii.names import Finder
from luthier.security.pii.pseudonym import SHORTEST_SECRET, mask, pseudonymiser, rewrite

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.recipe.stages.privacy import PrivacyOptions

Written = Literal["plain", "json"]
Text = tuple[str, str]
"""A text, after what it is called."""
Seen = dict[str, dict[str, int]]
"""Finds of a row: column -> type -> how many."""
NAMES_OFF = "rows whose names of persons were not looked for: no `names` given"


class Privacy:
    """The stage; `names` finds the names of persons, where there is something to find them with."""

    def __init__(self, options: PrivacyOptions, schema: pa.Schema, *, names: Finder | None = None) -> None:
        self.schema, self._names, self._min_score = schema, names, options.min_score
        self._actions = options.action_of()
        self._columns = columns_with_texts(schema, options.columns, stage="privacy")
        self._pseudonym = pseudonymiser(_secret(options)) if "pseudonymise" in self._actions.values() else mask

    def __call__(self, batch: pa.RecordBatch) -> Verdicts:
        seen: dict[int, Seen] = {}
        lost: set[int] = set()
        changed: set[int] = set()
        values: dict[str, Any] = {}
        for name, written in self._columns.items():
            cells = batch.column(name).to_pylist()
            for place, (cell, found) in enumerate(zip(cells, self._found(name, cells, written), strict=True)):
                kinds = _kinds(found)
                if not kinds:
                    continue
                seen.setdefault(place, {})[name] = kinds
                actions = {self._actions[kind] for kind in kinds}
                if "drop" in actions:
                    lost.add(place)
                elif actions - {"report"}:
                    cells[place] = self._rewritten(name, cell, found, written)
                    changed.add(place)
            values[name] = cells
        return Verdicts(
            replaced(batch, values) if changed else batch,
            dropped={p: _reason(seen[p]) for p in sorted(lost)},
            changed={p: _reason(seen[p]) for p in sorted(changed - lost)},
            counts=self.counts(seen, len(batch)),
        )

    def seen(self, batch: pa.RecordBatch) -> dict[int, Seen]:
        """What is found, by place in the batch, column and type; nothing is changed."""
        seen: dict[int, Seen] = {}
        for name, written in self._columns.items():
            for place, found in enumerate(self._found(name, batch.column(name).to_pylist(), written)):
                if kinds := _kinds(found):
                    seen.setdefault(place, {})[name] = kinds
        return seen

    def counts(self, seen: Mapping[int, Seen], rows: int) -> Counter[str]:
        """Finds by `column: type`, and rows whose names were not looked for."""
        counts: Counter[str] = Counter()
        for columns in seen.values():
            for name, kinds in columns.items():
                counts.update({f"{name}: {kind}": n for kind, n in kinds.items()})
        if self._names is None and "name" in self._actions:
            counts[NAMES_OFF] = rows
        return counts

    def _found(self, column: str, cells: Sequence[Any], written: Written) -> list[dict[Text, list[Span]]]:
        """For each cell its texts with their spans; the names of all of them are asked for at once."""
        held = [list(_texts(json.loads(c) if written == "json" and c is not None else c, column)) for c in cells]
        flat = [text for texts in held for _, text in texts]
        named: Sequence[Sequence[Span]] = self._names(flat) if self._names and "name" in self._actions and flat else [()] * len(flat)
        further = iter(named)
        return [
            {
                (label, text): find(text, label=label, types=self._actions, min_score=self._min_score, further=next(further))
                for label, text in texts
            }
            for texts in held
        ]

    def _rewritten(self, column: str, cell: Any, found: Mapping[Text, list[Span]], written: Written) -> Any:
        def change(label: str, text: str) -> str:
            return rewrite(text, [s for s in found[label, text] if self._actions[s.type] != "report"], self._instead)

        if written == "json":
            return json.dumps(_walked(json.loads(cell), column, change), ensure_ascii=False)
        return _walked(cell, column, change)

    def _instead(self, span: Span, value: str) -> str:
        return self._pseudonym(span, value) if self._actions[span.type] == "pseudonymise" else mask(span, value)


def _kinds(found: Mapping[Text, list[Span]]) -> dict[str, int]:
    return dict(sorted(Counter(s.type for spans in found.values() for s in spans).items()))


def _reason(seen: Seen) -> str:
    told = (f"{name}: " + ", ".join(f"{n} {kind}" for kind, n in kinds.items()) for name, kinds in seen.items())
    return "personal data: " + "; ".join(told)


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
        raise no_texts(schema, stage=stage)
    return found


def _holds_texts(kind: Any) -> bool:
    import pyarrow.types as kinds

    if kinds.is_string(kind) or kinds.is_large_string(kind):
        return True
    return any(_holds_texts(kind.field(i).type) for i in range(kind.num_fields))


def _texts(value: Any, label: str) -> Iterator[Text]:
    """Each text inside a value, with what it is called: the nearest key, or the column."""
    if isinstance(value, str):
        yield label, value
    elif isinstance(value, dict):
        for key, part in value.items():
            yield from _texts(part, str(key))
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part, label)


def _walked(value: Any, label: str, change: Callable[[str, str], str]) -> Any:
    """The value with each of its texts changed."""
    if isinstance(value, str):
        return change(label, value)
    if isinstance(value, dict):
        return {key: _walked(part, str(key), change) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_walked(part, label, change) for part in value)
    return value
