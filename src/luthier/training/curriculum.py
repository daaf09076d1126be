"""Which rows come when: the order of every epoch, over named streams of examples.

Enters: the name of each example's stream, and the `curriculum` section. Leaves: a `Course`: for each epoch the rows
in the order in which they are trained on. It knows streams, not tasks; all chance comes from (seed, epoch), so that
two numbers say where a training stands. Only the dynamic mixture has a state of its own.
"""

from __future__ import annotations

import math
import random
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
    observe: Callable[[Mapping[str, float]], None] = lambda losses: None
    """Told at the end of an epoch the loss of each stream on the validation part."""
    state: dict[str, Any] = field(default_factory=dict)

    def stage(self, epoch: int) -> int:
        """The number of an epoch's stage."""
        return min(epoch // max(1, self.epochs // len(self.stages)), len(self.stages) - 1) if self.stages else 0

    def updates(self, size: int) -> list[int]:
        """Updates of `size` examples in each epoch."""
        return [-(-len(self.rows(e)) // size) for e in range(self.epochs)]


def course(section: Curriculum, streams: Sequence[str], *, epochs: int, seed: int) -> Course:
    """The order of a training of so many epochs (a stage, where there are stages).

    Raises RecipeError for streams that are not there.
    """
    rows: dict[str, list[int]] = {}
    for row, name in enumerate(streams):
        rows.setdefault(name, []).append(row)
    if section.type == "single":
        return Course(lambda epoch: _shuffled(range(len(streams)), f"{seed}/{epoch}"), epochs)
    _refuse(section, rows)
    make = {"mixture": _mixture, "sequential": _sequential, "progressive": _progressive, "replay": _sequential}[section.type]
    return make(section, rows, epochs, seed)


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


def _sequential(section: Curriculum, rows: dict[str, list[int]], epochs: int, seed: int) -> Course:
    """One stream after the other, so many epochs each; with `replay`, earlier rows among the later streams' own."""
    names = tuple(section.order or rows)

    def kept(stage: int) -> list[int]:
        """The reservoir at the beginning of a stage."""
        earlier = names[:stage] if section.selection != "recent" else names[max(0, stage - 1) : stage]
        if section.selection == "balanced":
            sizes = apportion(dict.fromkeys(earlier, 1.0), section.reservoir)
            return [r for n in earlier for r in _shuffled(rows[n], f"{seed}/reservoir/{n}")[: sizes[n]]]
        pool = [r for n in earlier for r in rows[n]]
        return _shuffled(pool, f"{seed}/reservoir/{stage}")[: section.reservoir]

    def order(epoch: int) -> list[int]:
        stage = min(epoch // epochs, len(names) - 1)
        own = list(rows[names[stage]])
        if section.type == "replay" and stage:
            again = round(len(own) * section.share / (1 - section.share))
            own += _endless(kept(stage), (epoch - stage * epochs) * again, again, f"{seed}/replay/{stage}")
        return _shuffled(own, f"{seed}/{epoch}")

    return Course(order, epochs * len(names), stages=names)


def _progressive(section: Curriculum, rows: dict[str, list[int]], epochs: int, seed: int) -> Course:
    """The new stream's share rises from `start` to `end` over the whole training, row by row."""
    new = section.new or list(rows)[-1]
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
