"""What a store of feedback says on the whole: who did what, how far people agree, and which model they like better.

Enters: a store. Leaves: figures with their 95% bootstrap intervals over items, and no word of what was judged.
"""

from __future__ import annotations

import math
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.evaluation.intervals import Score, with_intervals
from luthier.feedback.agreement import LEVELS, Question, Table, alpha, kappa, same, table
from luthier.feedback.analytics import People, people
from luthier.feedback.store import Store

RESAMPLES = 1000


class Agreement(NamedTuple):
    """How far some annotators agree on a question: Cohen's kappa for two, Krippendorff's alpha for more or for numbers.

    `value` is None where all said one and the same thing: then nothing can be told from chance.
    """

    question: Question
    annotators: tuple[str, ...]
    coefficient: str
    value: Score | None
    same: float
    items: int


class Contest(NamedTuple):
    """How often people liked the answers of `first` better than those of `second`; a tie is half a win."""

    first: str
    second: str
    wins: int
    losses: int
    ties: int
    rate: Score


class Opinions(NamedTuple):
    """All there is to say of a store."""

    entries: int
    items: int
    people: list[People]
    agreement: list[Agreement]
    contests: list[Contest]


def opinions(store: Store) -> Opinions:
    """The figures of everything in a store."""
    history = store.entries(history=True)
    return Opinions(len(history), len({e.item for e in history}), people(history), agreements(store), contests(store))


def agreements(store: Store) -> list[Agreement]:
    """For each question that two or more people answered of the same items: all together, and where they are more than two, each pair."""
    entries, found = store.entries(), []
    for question in LEVELS:
        whole = table(entries, question)
        if not len(whole.values):
            continue
        found.append(_agreement(whole, question))
        if len(whole.annotators) > 2:
            for i, j in combinations(range(len(whole.annotators)), 2):
                both = whole.values[:, [i, j]]
                both = both[~np.isnan(both).any(1)]
                if len(both):
                    found.append(_agreement(Table((whole.annotators[i], whole.annotators[j]), both), question))
    return found


def _agreement(found: Table, question: Question) -> Agreement:
    level = LEVELS[question]
    cohen = len(found.annotators) == 2 and level == "nominal"

    def figure(values: NDArray[np.float64]) -> float:
        return kappa(values[:, 0], values[:, 1]) if cohen else alpha(values, level=level)

    def scorer(_: NDArray[Any], values: NDArray[np.float64]) -> dict[str, float]:
        value = figure(values)
        return {"value": 1.0 if math.isnan(value) else value}  # a resample in which all say the same has no disagreement

    known = not math.isnan(figure(found.values))
    score = with_intervals(scorer, np.arange(len(found.values)), found.values, resamples=RESAMPLES)["value"] if known else None
    name = "Cohen's kappa" if cohen else "Krippendorff's alpha"
    return Agreement(question, found.annotators, name, score, same(found.values), len(found.values))


def contests(store: Store) -> list[Contest]:
    """Every two models whose answers were compared; each judgement counts, skips do not."""
    sources = store.sources()
    points: dict[tuple[str, str], list[float]] = {}
    for entry in store.entries(kind="choice"):
        models = sources.get(entry.item, {}).get("models", [])
        picked = entry.payload["picked"]
        if len(set(models)) < 2 or picked == "skip":
            continue
        first, second = sorted(models)
        won = 0.5 if picked == "tie" else float(models[picked] == first)
        points.setdefault((first, second), []).append(won)
    return [_contest(first, second, won) for (first, second), won in sorted(points.items())]


def _contest(first: str, second: str, won: list[float]) -> Contest:
    given = np.array(won)
    rate = with_intervals(lambda _, w: {"rate": float(w.mean())}, np.arange(len(given)), given[:, None], resamples=RESAMPLES)["rate"]
    return Contest(first, second, won.count(1.0), won.count(0.0), won.count(0.5), rate)
