"""What each annotator did: how much, how fast, how decidedly, and whether the place on the screen mattered.

Enters: entries. Leaves: counts and shares, and no word of what was judged.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from luthier.feedback.store import Entry


class People(NamedTuple):
    """One annotator's figures; `seconds` is the median of a judgement, None where none was timed.

    `first` of `decided` choices fell on the answer that was shown first: far from a half, the place decided.
    """

    annotator: str
    choices: int
    ties: int
    skips: int
    edits: int
    ratings: int
    labels: int
    corrected: int
    decided: int
    first: int
    seconds: float | None


def people(entries: Iterable[Entry]) -> list[People]:
    """The figures of everybody, by name. `entries` are all, with history: what was corrected is counted apart."""
    everything = list(entries)
    superseded = {e.supersedes for e in everything if e.supersedes is not None}
    current = [e for e in everything if e.id not in superseded]
    return [
        _person(name, [e for e in current if e.annotator == name], sum(e.annotator == name for e in everything))
        for name in sorted({e.annotator for e in everything})
    ]


def _person(name: str, entries: list[Entry], written: int) -> People:
    choices = [e.payload for e in entries if e.kind == "choice"]
    shown = [p for p in choices if isinstance(p["picked"], int) and isinstance(p.get("order"), list)]
    times = [float(t) for e in entries if isinstance(t := e.payload.get("seconds"), int | float)]
    return People(
        annotator=name,
        choices=sum(isinstance(p["picked"], int) for p in choices),
        ties=sum(p["picked"] == "tie" for p in choices),
        skips=sum(p["picked"] == "skip" for p in choices) + sum(bool(e.payload.get("skipped")) for e in entries),
        edits=sum(e.kind == "edit" for e in entries),
        ratings=sum(e.kind == "rating" for e in entries),
        labels=sum(e.kind == "label" and not e.payload.get("skipped") for e in entries),
        corrected=written - len(entries),
        decided=len(shown),
        first=sum(p["picked"] == p["order"][0] for p in shown),
        seconds=median(times) if times else None,
    )
