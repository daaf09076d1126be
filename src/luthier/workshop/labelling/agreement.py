"""How far annotators agree on a question, and how each of them works.

Enters: opinions. Leaves: coefficients with 95% bootstrap intervals over rows, and figures by annotator; no word of what was labelled.
Classes, sets of classes and texts are compared as wholes. Spans are compared word by word (which label a word has, or none), and by
the F1 of whole spans, since most words have no label and agree on that.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from itertools import combinations
from statistics import median
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.evaluation.intervals import Score, with_intervals
from luthier.feedback.agreement import alpha, fleiss, kappa, same
from luthier.tasks.words import split
from luthier.workshop.labelling.opinions import Opinions, Value
from luthier.workshop.labelling.question import Form, Span, text_of

RESAMPLES = 1000
Table = NDArray[np.float64]


class Agreement(NamedTuple):
    """One coefficient of some annotators. `value` is None where all said one and the same: nothing can be told from chance then."""

    coefficient: str
    annotators: tuple[str, ...]
    value: Score | None
    same: float
    items: int


class Annotator(NamedTuple):
    """One annotator's figures.

    `seconds` is the median of an answer; `shared` answers are to rows that others answered too, and `with_others` of them say what
    most of these say (rows without such a majority do not count). `labels` are shares of all labels given.
    """

    name: str
    answers: int
    skipped: int
    seconds: float | None
    an_hour: float | None
    shared: int
    with_others: float | None
    labels: dict[str, float]


def agreements(found: Sequence[Opinions], form: Form) -> list[Agreement]:
    """Cohen's kappa of every two annotators; of all together Fleiss' kappa where they are more than two, and Krippendorff's alpha."""
    shared = [o for o in found if len(o.said) > 1]
    if not shared:
        return []
    people = sorted({name for o in shared for name in o.said})
    blocks = _coded([_block(o, people, form) for o in shared])
    results = []
    if len(people) > 2:
        results.append(_figure("Fleiss' kappa", fleiss, people, blocks))
    results.append(_figure("Krippendorff's alpha", alpha, people, blocks))
    for i, j in combinations(range(len(people)), 2):
        both = [b[:, [i, j]] for b in blocks if not np.isnan(b[:, [i, j]]).any()]
        if both:
            results.append(_figure("Cohen's kappa", lambda t: kappa(t[:, 0], t[:, 1]), (people[i], people[j]), both))
    if form == "spans":
        results.append(_spans(shared, people))
    return results


def _block(found: Opinions, people: Sequence[str], form: Form) -> list[list[Any]]:
    """What everybody said of an item, a line for each unit: the whole row, or of spans each word; None where one did not."""
    if form != "spans":
        return [[found.said.get(name) for name in people]]
    words = split(text_of(found.content))
    columns = [None if name not in found.said else _tags(found.said[name], words) for name in people]
    return [[None if c is None else c[w] for c in columns] for w in range(len(words))]


def _tags(value: Value, words: Sequence[tuple[int, int]]) -> list[str]:
    spans = [s for s in value if isinstance(s, Span)]
    return [next((s.label for s in spans if s.start < end and start < s.end), "") for start, end in words]


def _coded(blocks: list[list[list[Any]]]) -> list[Table]:
    """The blocks with a number for each value, NaN for none."""
    codes: dict[Any, float] = {}
    return [np.array([[math.nan if v is None else codes.setdefault(v, float(len(codes))) for v in line] for line in b]) for b in blocks]


def _figure(name: str, coefficient: Callable[[Table], float], people: Sequence[str], blocks: list[Table]) -> Agreement:
    whole = np.concatenate(blocks)

    def scorer(rows: NDArray[Any], _: Table) -> dict[str, float]:
        value = coefficient(np.concatenate([blocks[i] for i in rows]))
        return {"value": 1.0 if math.isnan(value) else value}  # a resample in which all say the same has no disagreement

    score = None
    if not math.isnan(coefficient(whole)):
        places = np.arange(len(blocks))
        score = with_intervals(scorer, places, np.zeros((len(blocks), 1)), resamples=RESAMPLES)["value"]
    return Agreement(name, tuple(people), score, same(whole), len(blocks))


def _spans(shared: Sequence[Opinions], people: Sequence[str]) -> Agreement:
    """The F1 of whole spans, over all pairs of annotators of a row: twice those both have, over those that each has."""
    counts = np.array([_overlap(list(o.said.values())) for o in shared], dtype=np.float64)

    def scorer(_: NDArray[Any], values: Table) -> dict[str, float]:
        return {"value": 2 * values[:, 0].sum() / max(values[:, 1].sum(), 1.0)}

    score = with_intervals(scorer, np.arange(len(counts)), counts, resamples=RESAMPLES)["value"] if counts[:, 1].sum() else None
    exact = float(np.mean([not o.differ for o in shared]))
    return Agreement("F1 of whole spans", tuple(people), score, exact, len(shared))


def _overlap(values: Sequence[Value]) -> tuple[int, int]:
    pairs = [(Counter(a), Counter(b)) for a, b in combinations(values, 2)]
    return sum((a & b).total() for a, b in pairs), sum(a.total() + b.total() for a, b in pairs)


def annotators(found: Sequence[Opinions]) -> list[Annotator]:
    """Everybody's figures, by name."""
    return [_annotator(name, found) for name in sorted({n for o in found for n in (*o.said, *o.skipped)})]


def _annotator(name: str, found: Sequence[Opinions]) -> Annotator:
    own = [o for o in found if name in o.said]
    entries = [e for o in own for e in o.entries if e.annotator == name and not e.payload.get("adjudicated")]
    times = [float(t) for e in entries if isinstance(t := e.payload.get("seconds"), int | float)]
    shared = [o for o in own if len(o.said) > 1]
    along = [o.said[name] == most for o in shared if (most := _others(o, name)) is not None]
    given = Counter(p.label if isinstance(p, Span) else p for o in own if not isinstance(v := o.said[name], str) for p in v)
    middle = median(times) if times else None
    return Annotator(
        name=name,
        answers=len(own),
        skipped=sum(name in o.skipped for o in found),
        seconds=middle,
        an_hour=3600 * len(times) / sum(times) if sum(times) else None,
        shared=len(shared),
        with_others=sum(along) / len(along) if along else None,
        labels={label: n / given.total() for label, n in given.most_common()},
    )


def _others(found: Opinions, name: str) -> Value | None:
    """What most of the others say; None where no answer has most votes."""
    votes = Counter(value for other, value in found.said.items() if other != name).most_common(2)
    return votes[0][0] if len(votes) == 1 or votes[0][1] > votes[1][1] else None
