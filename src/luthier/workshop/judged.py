"""What the quality room finds in labelled rows, as a report tells it: the first findings of each kind, with where they are.

Enters: rows with one label each. Leaves: plain values. Words, lengths and class sizes are always looked at; what needs the vectors of a
model (wrong labels, backdoors, outliers) where it is asked for. Personal data is masked before anything is looked at, for reasons
quote words and labels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.data.rows import Row, cell_text
from luthier.errors import DataError
from luthier.workshop.embed import MODEL
from luthier.workshop.guess import Guess
from luthier.workshop.privately import masked
from luthier.workshop.quality.balance import balance
from luthier.workshop.quality.finding import KINDS, Finding, Kind
from luthier.workshop.quality.shortcuts import shortcuts
from luthier.workshop.quality.survey import survey

TOP = 5
"""Findings of a kind that are told."""
PLACES = 3
"""Rows of a finding whose places are told."""
DEARER = "wrong labels, backdoors, outliers: they need the vectors of a model; ask with --quality"


def judged(meant: Guess, rows: Sequence[Row], *, deep: bool, model: str | None) -> tuple[list[dict[str, Any]], list[str]]:
    """Findings by kind, and what could not be looked at; nothing of rows without a label each."""
    if meant.kind != "one label":
        return [], ["quality of labels: rows with one label each are judged"] if deep else []
    held = [(r, "\n".join(str(r.values.get(n) or "") for n in meant.texts), cell_text(r.values.get(meant.target[0]))) for r in rows]
    held = [(r, text, label) for r, text, label in held if text.strip() and label]
    texts, labels = [masked(text) for _, text, _ in held], [masked(label) for _, _, label in held]
    found: Mapping[Kind, Sequence[Finding]]
    notes: list[str]
    try:
        if deep:
            looked = survey(texts, labels, model=model or MODEL)
            found, notes = looked.findings, list(looked.notes)
        else:
            found, notes = _cheap(texts, labels), [DEARER]
    except DataError as error:
        return [], [f"quality of labels: {error.fault.message}"]
    places = [f"{Path(r.file).name}:{r.line}" for r, _, _ in held]
    return [_kind(kind, found[kind], places) for kind in KINDS if found.get(kind)], notes


def _cheap(texts: Sequence[str], labels: Sequence[str]) -> dict[Kind, list[Finding]]:
    import numpy as np

    names, gold = np.unique(np.array(labels, dtype=object).astype(str), return_inverse=True)
    if len(names) < 2:
        return {}
    return {"balance": balance(gold, names.tolist()), "shortcut": shortcuts(texts, gold, names.tolist())}


def _kind(kind: Kind, found: Sequence[Finding], places: Sequence[str]) -> dict[str, Any]:
    return {
        "kind": kind,
        "told": KINDS[kind],
        "found": len(found),
        "first": [
            {"score": f.score, "reason": f.reason, "rows": [places[r] for r in f.rows[:PLACES]], "of": len(f.rows)} for f in found[:TOP]
        ],
    }
