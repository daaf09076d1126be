"""A data card: what a data set is, where it comes from, who may use it, and what was found in it that concerns people.

Enters: a stream of rows, what the user says of the set, and the measures that look at the rows. Leaves: a `Card`, as JSON and as
Markdown with the front matter that data hubs read, and for each row with finds a line of the audit: file, line, columns, types, how many,
never a value.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

from luthier.data.ethics import Ethics
from luthier.data.stages.privacy import NAMES_OFF, Privacy, columns_with_texts
from luthier.data.stages.stage import FILE, LINE
from luthier.data.stages.texts import joined, need, own_columns
from luthier.errors import DataError
from luthier.security.pii import find
from luthier.security.pii.pseudonym import mask, rewrite

if TYPE_CHECKING:
    from luthier.data.stream import Stream

MOST_LABELS = 40
TOO_MANY_LABELS = 10_000
UNKNOWN = "not given"


@dataclass(frozen=True)
class Stated:
    """What only the user knows of a data set."""

    name: str
    license: str | None = None
    source: str | None = None
    description: str | None = None


@dataclass
class Card:
    """The figures of a data set. `personal` holds finds by column and type, `personal_rows` counts the rows with some."""

    stated: Stated
    files: list[dict[str, Any]]
    columns: dict[str, str]
    rows: int = 0
    quarantined: int = 0
    personal: Counter[str] = field(default_factory=Counter)
    personal_rows: int = 0
    labels: Counter[str] = field(default_factory=Counter)
    ethics: dict[str, Any] = field(default_factory=dict)

    def summary(self) -> dict[str, Any]:
        """All of it as JSON."""
        return {
            **asdict(self.stated),
            "license": self.stated.license or UNKNOWN,
            "source": self.stated.source or UNKNOWN,
            "files": self.files,
            "columns": self.columns,
            "rows": self.rows,
            "quarantined": self.quarantined,
            "labels": dict(self.labels.most_common(MOST_LABELS)),
            "personal_data": {"rows": self.personal_rows, "finds": dict(self.personal)},
            "ethics": self.ethics,
        }


def survey(
    stream: Stream,
    stated: Stated,
    *,
    privacy: Privacy,
    ethics: Ethics,
    audit: Callable[[dict[str, Any]], object],
    label: str | None = None,
    text: Sequence[str] | None = None,
) -> Card:
    """The card of a data set, in one pass; each line of its audit goes to `audit`.

    Hurtful words and who is talked about are counted in the columns `text`, in all that hold texts where none is named; personal data
    in all. Raises DataError for a column that is not there or holds no labels.
    """
    if label is not None:
        need(stream.schema, [label], stage="card")
    kinds = {f.name: str(f.type) for f in stream.schema if f.name in own_columns(stream.schema)}
    files = [{"name": s.name, "format": s.format, "bytes": s.size, "sha256": s.digest} for s in stream.sources]
    card = Card(stated, files, kinds)
    flat = [n for n in columns_with_texts(stream.schema, text, stage="card") if n != label and kinds[n] in ("string", "large_string")]
    for portion in stream.portions():
        batch = portion.batch
        card.rows += batch.num_rows
        card.quarantined += len(portion.quarantined)
        seen = privacy.seen(batch)
        card.personal_rows += len(seen)
        card.personal.update(privacy.counts(seen, batch.num_rows))
        names, lines = batch.column(FILE).to_pylist(), batch.column(LINE).to_pylist()
        for place, found in sorted(seen.items()):
            audit({"file": names[place], "line": lines[place], "found": found})
        labels = None if label is None else [_shown(v) for v in batch.column(label).to_pylist()]
        card.labels.update(labels or ())
        if len(card.labels) > TOO_MANY_LABELS:
            raise DataError(
                f"has more than {TOO_MANY_LABELS:,} different values", where=f"column {label!r}", remedy="name a column of labels"
            )
        if flat:
            ethics.add(list(joined(batch, flat)), labels)
    card.ethics = ethics.summary()
    return card


def _shown(value: Any) -> str:
    """A label as it may be shown: what concerns a person is masked."""
    text = "" if value is None else str(value)
    return rewrite(text, find(text), mask)


def _cell(text: str) -> str:
    """A text in a cell of a table."""
    return " ".join(text.split()).replace("|", "\\|") or "(none)"


def markdown(card: Card) -> str:
    """The card for people."""
    told = card.summary()
    return "\n".join([*_front(card), *_about(card), *_people(told), *_toxic(told["ethics"]), *_balance(told["ethics"]), *_limits()]) + "\n"


def _front(card: Card) -> Iterator[str]:
    yield from ("---", f"pretty_name: {_quoted(card.stated.name)}")
    if card.stated.license:
        yield f"license: {_quoted(card.stated.license)}"
    yield from ("tags: [luthier]", "---", "", f"# {card.stated.name}", "")


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _about(card: Card) -> Iterator[str]:
    stated = card.stated
    if stated.description:
        yield from (stated.description, "")
    yield f"- Licence: {stated.license or UNKNOWN + ': find out before a model trained on it is passed on'}"
    yield f"- Source: {stated.source or UNKNOWN}"
    yield f"- Rows: {card.rows:,}" + (f", and {card.quarantined:,} that could not be read" if card.quarantined else "")
    yield f"- Columns: {', '.join(f'`{n}` ({kind})' for n, kind in list(card.columns.items())[:40])}"
    yield from ("", "| file | format | bytes | SHA-256 |", "|---|---|---|---|")
    yield from (f"| {_cell(f['name'])} | {f['format']} | {f['bytes']:,} | `{f['sha256'][:16]}…` |" for f in card.files)
    if card.labels:
        yield from ("", "## Labels", "", "| label | rows | share |", "|---|---|---|")
        yield from (f"| {_cell(name)} | {n:,} | {n / card.rows:.1%} |" for name, n in card.labels.most_common(MOST_LABELS))
        if len(card.labels) > MOST_LABELS:
            yield from ("", f"and {len(card.labels) - MOST_LABELS} more labels.")


def _people(told: dict[str, Any]) -> Iterator[str]:
    finds = {name: n for name, n in told["personal_data"]["finds"].items() if name != NAMES_OFF}
    yield from ("", "## Personal data and secrets", "")
    if finds:
        yield from (f"Found in {told['personal_data']['rows']:,} rows, listed by line (without the values) in `audit.jsonl`.", "")
        yield from ("| column | type | finds |", "|---|---|---|")
        for name, n in sorted(finds.items(), key=lambda x: -x[1]):
            column, _, kind = name.rpartition(": ")
            yield f"| {_cell(column)} | {kind} | {n:,} |"
    else:
        yield "Nothing was found."
    if NAMES_OFF in told["personal_data"]["finds"]:
        yield from ("", "Names of persons were not looked for: that needs a tagging run or a list of names.")


def _toxic(ethics: dict[str, Any]) -> Iterator[str]:
    yield from ("", "## Hurtful words", "", "| kind | share of rows | 95% interval |", "|---|---|---|")
    for kind, share in ethics["toxic"].items():
        yield f"| {kind} | {share['value']:.2%} | {share['low']:.2%} to {share['high']:.2%} |"


def _balance(ethics: dict[str, Any]) -> Iterator[str]:
    yield from ("", "## Who is talked about", "", "| attribute | rows that mention |", "|---|---|")
    for attribute, groups in ethics["mentions"].items():
        yield f"| {attribute} | {', '.join(f'{group}: {n:,}' for group, n in groups.items())} |"
    if ethics["leans"]:
        yield from ("", "Labels that rows about a group have more or less often than all rows (their 95% intervals do not meet):", "")
        yield from ("| group | label | among them | among all | rows |", "|---|---|---|---|---|")
        for lean in ethics["leans"][:20]:
            among, share = lean["group_share"], lean["share"]
            yield f"| {lean['group']} | {_cell(lean['label'])} | {among['value']:.1%} | {share['value']:.1%} | {among['n']:,} |"


def _limits() -> Iterator[str]:
    yield from ("", "## What these figures are not", "")
    yield "Personal data are found by form, check digits and the words beside them: what has no form is missed, and some finds are none."
    yield "Hurtful words and groups are counted by short lists of English words, blind to irony and context: they say where to look."
