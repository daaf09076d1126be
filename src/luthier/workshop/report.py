"""What a data file holds, in figures: columns, task, lengths, classes, repeats, languages, personal data, samples.

Enters: files, perhaps the columns of text and label, and a model by whose tokens rows are measured. Leaves: plain values, as
`luthier data report --json` prints them and `workshop/page.py` draws them. Everything dear is told from the sample; where that
is not every row, `sample` says of how many.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from luthier.data.profile import Column, Profile, Spread, leaves, profile
from luthier.data.repeats import repeats
from luthier.data.rows import Row
from luthier.data.sources.source import Reading
from luthier.errors import DependencyError
from luthier.recipe.sections import Data
from luthier.tasks.labels import cells
from luthier.workshop.guess import Guess, guess
from luthier.workshop.judged import judged
from luthier.workshop.lengths import histogram, tokens_of
from luthier.workshop.privately import masked, personal, shown
from luthier.workshop.reading import Opened, open_files

MOST_COLUMNS = 200
"""Columns that are described one by one."""
MOST_CLASSES = 120
SHOWN = 8
LANGUAGES_OF = 2000
"""Rows whose language is told."""
MEASURED, SEARCHED = 2 << 20, 4 << 20
"""Characters of the rows whose tokens are counted, and of those that are looked through for personal data and quality."""
COMMONEST = 5


def report(
    files: Sequence[str],
    *,
    reading: Reading | None = None,
    text: Sequence[str] = (),
    label: str | None = None,
    model: str | None = None,
    quality: bool = False,
) -> dict[str, Any]:
    """The figures; with `quality` also what needs vectors.

    Raises DataError for files or columns that cannot be used, ModelError for a model that cannot.
    """
    given = open_files(files, reading)
    found = profile(given.stream)
    meant = guess(found, text=text, label=label)
    rows = found.drawn()
    read = [read_by(meant, row) for row in rows]
    measured = [read[i] for i in thinned(read, MEASURED)]
    counted = tokens_of(measured, model=model or model_for(meant), paired=is_paired(meant))
    searched = thinned(read, SEARCHED)
    private = personal(found.sample.take(searched))
    languages, unlooked = _languages(read)
    findings, more = judged(meant, [rows[i] for i in searched], deep=quality, model=None if meant.writes else model)
    return {
        "files": _files(found),
        "rows": {"read": found.rows + found.quarantined, "usable": found.rows, "quarantined": found.quarantined},
        "sample": {"rows": len(rows), "whole": found.whole},
        "quarantine": {
            "reasons": dict(found.reasons.most_common()),
            "examples": [{"file": q.file, "line": q.line, "reason": q.reason, "text": masked(q.text)} for q in found.examples],
        },
        "notes": found.notes,
        "columns": [_column(c, found, meant) for c in list(found.columns.values())[:MOST_COLUMNS]],
        "columns_in_all": len(found.columns),
        "task": _task(meant, given),
        "classes": _masked(classes(meant, rows)),
        "unknown_classes": _unknown(meant, found, rows),
        "lengths": {
            "characters": _spread([sum(map(len, texts)) for texts in read]),
            "rows": len(counted.counts),
            "model": counted.model,
            "reads": counted.reads,
            "tokens": _spread(counted.counts),
            "longer": counted.longer,
            "histogram": histogram(counted.counts),
        },
        "repeats": _repeats(given, meant),
        "languages": languages,
        "personal": asdict(private),
        "samples": shown(found.sample, _places(len(rows))),
        "quality": findings,
        "not_looked": [*unlooked, *more],
    }


def thinned(rows: Sequence[Sequence[str]], most: int) -> list[int]:
    """Places of rows, evenly spread, whose texts hold about `most` characters; of all where these do."""
    held = sum(len(text) for texts in rows for text in texts)
    return list(range(0, len(rows), max(1, -(-held // most))))


def model_for(meant: Guess) -> str:
    """The shipped model that suits a task."""
    return "starter" if meant.writes else "minilm"


def classes(meant: Guess, rows: Sequence[Row]) -> dict[str, int]:
    """Rows of each label, commonest first; empty where the rows have none."""
    if not meant.labels:
        return {}
    data = Data(
        train=["-"],
        label=list(meant.target) if len(meant.target) > 1 else meant.target[0],
        label_separator=meant.values["data.label_separator"].value if "data.label_separator" in meant.values else None,
    )
    return dict(Counter(label for row in rows for label in cells(row, data)).most_common())


def _unknown(meant: Guess, found: Profile, rows: Sequence[Row]) -> dict[str, list[str]]:
    """Labels of each further file given that the first one has not."""
    parts = {source.name: source.input.part for source, _, _ in found.by_source}
    by_part = {p: classes(meant, [r for r in rows if parts[r.file] == p]) for p in dict.fromkeys(parts.values())}
    first, *others = by_part.values()
    return {p: new for p, held in zip(list(by_part)[1:], others, strict=True) if (new := [masked(c) for c in held if c not in first])}


def _masked(counts: dict[str, int]) -> dict[str, int]:
    """Counts by names that may be shown; those that are masked alike are one."""
    found: Counter[str] = Counter()
    for name, count in counts.items():
        found[masked(name)] += count
    return dict(found)


def read_by(meant: Guess, row: Row) -> list[str]:
    """The texts of a row that a model reads: those it learns to write, too."""
    names = (*meant.texts, *(meant.target if meant.task == "text2text" else ()))
    return [text for name in names for text in leaves(row.values.get(name))]


def is_paired(meant: Guess) -> bool:
    """Whether a model reads two texts with what stands between them."""
    return "data.text_pair" in meant.values and meant.task in ("classification", "span")


def _places(count: int) -> list[int]:
    """Rows to be shown, evenly spread."""
    return np.unique(np.linspace(0, count - 1, min(SHOWN, count)).round().astype(int)).tolist()


def _spread(figures: Sequence[float]) -> dict[str, float] | None:
    found = Spread.of(figures)
    return None if found is None else asdict(found)


def _files(found: Profile) -> list[dict[str, Any]]:
    return [
        {
            "name": source.name,
            "part": source.input.part,
            "format": source.format,
            "encoding": str(source.encoding) if source.encoding else None,
            "byte_order_mark": bool(source.encoding and source.encoding.mark),
            "dialect": str(source.dialect) if source.dialect else None,
            "bytes": source.size,
            "sha256": source.digest,
            "rows": rows,
            "quarantined": bad,
        }
        for source, rows, bad in found.by_source
    ]


def _column(column: Column, found: Profile, meant: Guess) -> dict[str, Any]:
    role = (
        "optional"
        if column.name in meant.optional
        else "text"
        if column.name in meant.texts
        else "target"
        if column.name in meant.target
        else ""
    )
    telling = role not in ("text", "optional") and column.counts and column.distinct and column.distinct <= 0.5 * found.rows
    common = column.counts.most_common(COMMONEST) if telling and column.counts else []
    return {
        "name": column.name,
        "type": column.type,
        "written_as_text": column.written,
        "role": role,
        "missing": column.missing,
        "distinct": column.distinct,
        "characters": asdict(column.characters) if column.characters else None,
        "range": column.range,
        "commonest": {masked(value)[:80]: count for value, count in common},
    }


def _task(meant: Guess, given: Opened) -> dict[str, Any]:
    values = {**given.values, **meant.values}
    return {
        "name": meant.task,
        "kind": meant.kind,
        "because": meant.because,
        "values": {path: {"value": told.value, "because": told.origin} for path, told in values.items()},
        "others": list(meant.others),
    }


def _repeats(given: Opened, meant: Guess) -> dict[str, Any]:
    found = repeats(given.stream, texts=meant.texts, target=meant.target)
    return {
        "same": found.same,
        "conflicting": found.conflicting if meant.target else None,
        "nearly": found.nearly,
        "examples": [{"first": f"{a.file}:{a.line}", "second": f"{b.file}:{b.line}", "alike": alike} for a, b, alike in found.examples],
        "overlaps": [asdict(o) for o in found.overlaps],
    }


def _languages(read: Sequence[Sequence[str]]) -> tuple[dict[str, int] | None, list[str]]:
    """Rows of each language, commonest first, and what could not be looked at."""
    from luthier.data.stages.language import ENOUGH, identifier
    from luthier.recipe.stages.language import LanguageOptions

    try:
        tell = identifier()
    except DependencyError as error:
        return None, [f"languages: {error.fault.message}; {error.fault.remedy}"]
    step, least = max(1, len(read) // LANGUAGES_OF), LanguageOptions(keep=["en"]).min_characters
    counts: Counter[str] = Counter()
    for texts in read[::step]:
        whole = "\n".join(texts)[:ENOUGH]
        counts["too short to tell" if len(whole.strip()) < least else tell.classify(whole)[0]] += 1
    return dict(counts.most_common()), []
