"""How far people agree, beyond what chance would give.

Enters: entries of a store. Leaves: a table, items x annotators, and coefficients of it. Intervals need evaluation, which stands
above this room: `workflow/opinions.py` puts them around these figures.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.feedback.store import Entry

Level = Literal["nominal", "interval"]
"""Whether values are names, or numbers whose distance counts."""
Question = Literal["choice", "thumb", "number"]
"""What is compared: which of two answers, whether an answer is good, how good it is."""
LEVELS: dict[Question, Level] = {"choice": "nominal", "thumb": "nominal", "number": "interval"}


class Table(NamedTuple):
    """What each annotator said of each item that two or more judged: (items, annotators), NaN where one did not."""

    annotators: tuple[str, ...]
    values: NDArray[np.float64]


def table(entries: Iterable[Entry], question: Question) -> Table:
    """The table of what holds now; skips are no answers. Ties are a value beside the two answers."""
    said: dict[str, dict[str, float]] = {}
    for entry in entries:
        value = _value(entry.kind, entry.payload, question)
        if value is not None:
            said.setdefault(entry.item, {})[entry.annotator] = value
    shared = [by for by in said.values() if len(by) > 1]
    annotators = tuple(sorted({name for by in shared for name in by}))
    return Table(
        annotators, np.array([[by.get(name, math.nan) for name in annotators] for by in shared]).reshape(len(shared), len(annotators))
    )


def _value(kind: str, payload: dict[str, Any], question: Question) -> float | None:
    if question == "choice":
        picked = payload.get("picked") if kind == "choice" else "skip"
        return None if picked == "skip" else 0.5 if picked == "tie" else float(picked or 0)
    rating = payload.get("rating") if kind == "rating" else None
    return None if rating is None or isinstance(rating, bool) != (question == "thumb") else float(rating)


def same(values: NDArray[np.float64]) -> float:
    """Share of the pairs of judgements of one item that say the same; NaN without any."""
    pairs = agreeing = 0
    for row in values:
        given = row[~np.isnan(row)]
        counts = np.unique(given, return_counts=True)[1]
        pairs += len(given) * (len(given) - 1)
        agreeing += int((counts * (counts - 1)).sum())
    return agreeing / pairs if pairs else math.nan


def kappa(first: Sequence[float] | NDArray[np.float64], second: Sequence[float] | NDArray[np.float64]) -> float:
    """Cohen's kappa (1960) of two people on the same items; NaN where both always say one and the same thing.

    Equal to scikit-learn's, without the checks that cost a thousand resamples seconds.
    """
    one, other = np.asarray(first), np.asarray(second)
    known = np.unique([one, other])
    by_chance = sum((one == v).mean() * (other == v).mean() for v in known)
    return float(((one == other).mean() - by_chance) / (1 - by_chance)) if len(known) > 1 else math.nan


def fleiss(values: NDArray[np.float64]) -> float:
    """Fleiss' kappa (1971) of names that any people gave; NaN where all say one and the same thing.

    `values` is (items, annotators), NaN where there is none. Items of fewer than two are left out; of the others each counts the
    same, however many judged it.
    """
    kept = values[(~np.isnan(values)).sum(1) > 1]
    known = np.unique(kept[~np.isnan(kept)])
    if len(known) < 2:
        return math.nan
    counts = (kept[:, :, None] == known).sum(1).astype(np.float64)
    people = counts.sum(1)
    agreeing = (((counts**2).sum(1) - people) / (people * (people - 1))).mean()
    by_chance = float(((counts.sum(0) / counts.sum()) ** 2).sum())
    return float((agreeing - by_chance) / (1 - by_chance))


def alpha(values: NDArray[np.float64], *, level: Level = "nominal") -> float:
    """Krippendorff's alpha of any number of people who need not have judged all items; NaN where all say one and the same thing.

    1 - observed / expected disagreement, from the table of coincidences (Krippendorff, Computing Krippendorff's
    Alpha-Reliability, 2011, sections C and D). `values` is (items, annotators), NaN where there is none.
    """
    kept = values[(~np.isnan(values)).sum(1) > 1]
    known = np.unique(kept[~np.isnan(kept)])
    if len(known) < 2:
        return math.nan
    counts = (kept[:, :, None] == known).sum(1).astype(np.float64)  # (items, values): how often each was said
    weights = 1 / (counts.sum(1) - 1)
    coincidences = (counts * weights[:, None]).T @ counts - np.diag((counts * weights[:, None]).sum(0))
    totals = coincidences.sum(1)
    distance = (known[:, None] - known) ** 2 if level == "interval" else (known[:, None] != known).astype(np.float64)
    expected = (np.outer(totals, totals) * distance).sum() / (totals.sum() - 1)
    return float(1 - (coincidences * distance).sum() / expected)
