"""Which rows come when: the order of every epoch, over named streams of examples.

Enters: the name of each example's stream, and the `curriculum` section. Leaves: a `Course`: for each epoch the rows
in the order in which they are trained on. It knows streams, not tasks; all chance comes from (seed, epoch), so that
two numbers say where a training stands. Only the dynamic mixture has a state of its own.
"""

from __future__ import annotations

import itertools
import math
import random
from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from luthier.errors import Fault, RecipeError
from luthier.recipe.curriculum import Curriculum
from luthier.registry import nearest


@dataclass
class Course:
    """`rows(epoch)` are those of an epoch; `stages` names them where streams come one after the other."""

    rows: Callable[[int], list[int]]
    epochs: int
    stages: tuple[str, ...] = ()
    ends: tuple[int, ...] = ()
    """For each stage the number of epochs by its end."""
    observe: Callable[[Mapping[str, float]], None] = lambda losses: None
    """Told at the end of an epoch the loss of each stream on the validation part."""
    state: dict[str, Any] = field(default_factory=dict)

    def stage(self, epoch: int) -> int:
        """The number of an epoch's stage."""
        return bisect_right(self.ends, epoch) if epoch < self.epochs else max(0, len(self.stages) - 1)

    def updates(self, size: int) -> list[int]:
        """Updates of `size` examples in each epoch."""
        return [-(-len(self.rows(e)) // size) for e in range(self.epochs)]


def course(
    section: Curriculum, streams: Sequence[str], *, epochs: int | Mapping[str, int], seed: int, learned: str | None = None
) -> Course:
    """The order of a training of so many epochs; in stages each has so many, or as many as its stream's name says.

    A stream that was `learned` by an earlier run is a stage that has been: replay brings its rows back from the first epoch on.
    Raises RecipeError for streams that are not there.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(streams):
        rows.setdefault(name, []).append(row)
    if section.type == "replay" and learned is not None:
        return _after(section, rows, epochs, seed, learned)
    if section.type != "single":
        _refuse(section, rows)
    if section.type in ("sequential", "replay"):
        return _sequential(section, rows, epochs if isinstance(epochs, Mapping) else dict.fromkeys(rows, epochs), seed)
    assert isinstance(epochs, int), "streams that are mixed have their epochs together"
    if section.type == "single":
        return Course(lambda epoch: _shuffled(range(len(streams)), f"{seed}/{epoch}"), epochs)
    return _mixture(section, rows, epochs, seed) if section.type == "mixture" else _progressive(section, rows, epochs, seed, learned)


def in_pairs(marks: Sequence[int], *, seed: int) -> Callable[[int], list[int]]:
    """The rows of every epoch where rows of one mark are to meet: two of one, two of another, each mark as often as any other.

    An epoch is rounds through all marks, each round in another order, and has about as many rows as there are. A mark goes
    through its own rows pass after pass, each in another order; one with a single row brings it twice.
    """
    rows: dict[int, list[int]] = {}
    for row, mark in enumerate(marks):
        rows.setdefault(mark, []).append(row)
    rounds = max(1, round(len(marks) / (2 * len(rows))))

    def order(epoch: int) -> list[int]:
        own = {m: _endless(r, 2 * rounds * epoch, 2 * rounds, f"{seed}/{m}") for m, r in rows.items()}
        return [row for n in range(rounds) for m in _shuffled(list(rows), f"{seed}/{epoch}/{n}") for row in own[m][2 * n : 2 * n + 2]]

    return order


def _refuse(section: Curriculum, rows: Mapping[str, Sequence[int]]) -> None:
    said = {
        "curriculum.order": section.order or [],
        "curriculum.new": [section.new] if section.new else [],
        "curriculum.mixing": list(section.mixing) if isinstance(section.mixing, dict) else [],
    }
    for where, names in said.items():
        for name in names:
            if name not in rows:
                guess = nearest(name, rows)
                remedy = f"did you mean {guess!r}?" if guess else f"the streams are: {', '.join(rows)}"
                raise RecipeError([Fault(f"no stream {name!r}", where, remedy)])
    if len(rows) < 2:
        raise RecipeError([
            Fault(f"{section.type} wants several streams, and there is one", "curriculum.type", "name several under task.tasks")
        ])  # fmt: skip
    for where in ("curriculum.order", "curriculum.mixing"):
        if said[where] and set(said[where]) != set(rows):
            missing = next(n for n in rows if n not in said[where])
            raise RecipeError([Fault(f"leaves {missing!r} out", where, "name every stream, or none")])


def _shuffled(rows: Sequence[int], seed: str) -> list[int]:
    order = list(rows)
    random.Random(seed).shuffle(order)
    return order


def _endless(rows: Sequence[int], first: int, count: int, seed: str) -> list[int]:
    """`count` rows from place `first` of an endless run through them, each pass in another order."""
    found: list[int] = []
    while len(found) < count:
        number, place = divmod(first + len(found), len(rows))
        found += _shuffled(rows, f"{seed}/{number}")[place : place + count - len(found)]
    return found


def apportion(shares: Mapping[str, float], count: int) -> dict[str, int]:
    """Whole numbers that add up to `count`, in these shares (largest remainders; ties to the first)."""
    total = sum(shares.values())
    exact = {n: s / total * count for n, s in shares.items()}
    found = {n: math.floor(x) for n, x in exact.items()}
    for name in sorted(exact, key=lambda n: found[n] - exact[n])[: count - sum(found.values())]:
        found[name] += 1
    return found


def _mixture(section: Curriculum, rows: dict[str, list[int]], epochs: int, seed: int) -> Course:
    """Every epoch as many examples as there are rows, of each stream its share.

    `temperature`: shares go as n^(1/T) (Raffel et al. 2020, sec. 3.5.2). `dynamic`: as n * l / l0 from the second epoch
    on, l being the stream's validation loss after the epoch before, l0 that after the first: what has learned least comes most.
    """
    size = sum(map(len, rows.values()))
    base: dict[str, float]
    if isinstance(section.mixing, dict):
        base = {n: section.mixing[n] for n in rows}
    else:
        power = {"uniform": 0.0, "temperature": 1 / section.temperature}.get(section.mixing, 1.0)
        base = {n: len(r) ** power for n, r in rows.items()}
    state: dict[str, Any] = {"losses": []}

    def counts(epoch: int) -> dict[str, int]:
        shares, losses = base, state["losses"]
        if losses and epoch > 0:
            now = losses[min(epoch, len(losses)) - 1]
            shares = {n: b * now.get(n, 1.0) / max(losses[0].get(n, 1.0), 1e-9) for n, b in base.items()}
        return apportion(shares, size)

    def order(epoch: int) -> list[int]:
        found: list[int] = []
        for name, own in rows.items():
            done = sum(counts(e)[name] for e in range(epoch))
            found += _endless(own, done, counts(epoch)[name], f"{seed}/{name}")
        return _shuffled(found, f"{seed}/{epoch}")

    def observe(losses: Mapping[str, float]) -> None:
        state["losses"].append(dict(losses))

    if section.mixing == "dynamic":
        return Course(order, epochs, observe=observe, state=state)
    return Course(order, epochs)


def _sequential(section: Curriculum, rows: dict[str, list[int]], epochs: Mapping[str, int], seed: int) -> Course:
    """One stream after the other, each its epochs; with `replay`, earlier rows among the later streams' own."""
    names = tuple(section.order or rows)
    ends = tuple(itertools.accumulate(epochs[n] for n in names))

    def order(epoch: int) -> list[int]:
        stage = min(bisect_right(ends, epoch), len(names) - 1)
        own = list(rows[names[stage]])
        if section.type == "replay" and stage:
            again = _again(section, len(own))
            kept = reservoir(section, {n: rows[n] for n in names[:stage]}, seed=seed, stage=stage)
            own += _endless(kept, (epoch - ends[stage - 1]) * again, again, f"{seed}/replay/{stage}")
        return _shuffled(own, f"{seed}/{epoch}")

    return Course(order, ends[-1], stages=names, ends=ends)


def reservoir(section: Curriculum, pools: Mapping[str, Sequence[int]], *, seed: int, stage: int) -> list[int]:
    """The rows of earlier pools, first to last, that are kept at the beginning of a stage."""
    if section.selection == "balanced":
        sizes = apportion(dict.fromkeys(pools, 1.0), section.reservoir)
        return [r for n, rows in pools.items() for r in _shuffled(rows, f"{seed}/reservoir/{n}")[: sizes[n]]]
    names = list(pools)[-1:] if section.selection == "recent" else list(pools)
    return _shuffled([r for n in names for r in pools[n]], f"{seed}/reservoir/{stage}")[: section.reservoir]


def _again(section: Curriculum, own: int) -> int:
    """How many earlier rows come back beside so many new ones."""
    return round(own * section.share / (1 - section.share))


def _after(section: Curriculum, rows: Mapping[str, list[int]], epochs: int | Mapping[str, int], seed: int, learned: str) -> Course:
    """The stage that comes after an earlier run: in every epoch all new rows, and as many of the kept ones as `share` says."""
    assert isinstance(epochs, int), "it is one stage"
    kept = rows.get(learned, [])
    new = [r for n, own in rows.items() if n != learned for r in own]
    again = _again(section, len(new)) if kept else 0

    def order(epoch: int) -> list[int]:
        return _shuffled(new + _endless(kept, epoch * again, again, f"{seed}/replay/1"), f"{seed}/{epoch}")

    return Course(order, epochs)


def _progressive(section: Curriculum, rows: dict[str, list[int]], epochs: int, seed: int, learned: str | None) -> Course:
    """The new stream's share rises from `start` to `end` over the whole training, row by row."""
    new = section.new or next(n for n in reversed(rows) if n != learned)
    old = [r for n, own in rows.items() if n != new for r in own]
    size = len(old) + len(rows[new])

    def share(x: float) -> float:
        rise = x if section.rise == "linear" else (1 - math.cos(math.pi * x)) / 2
        return section.start + (section.end - section.start) * rise

    def taken(epoch: int) -> float:
        """How many rows of the new stream there are before an epoch: the sum of the shares so far."""
        return sum(share((i + 0.5) / (size * epochs)) for i in range(size * epoch))

    def order(epoch: int) -> list[int]:
        due = taken(min(epoch, epochs))
        first = given = math.floor(due)
        turns: list[bool] = []
        for i in range(size):
            due += share(min(1.0, (size * epoch + i + 0.5) / (size * epochs)))
            turns.append(math.floor(due) > given)
            given = max(given, math.floor(due))
        many = sum(turns)
        fresh = iter(_endless(rows[new], first, many, f"{seed}/new"))
        again = iter(_endless(old, size * epoch - first, size - many, f"{seed}/old"))
        return [next(fresh) if turn else next(again) for turn in turns]

    return Course(order, epochs)
