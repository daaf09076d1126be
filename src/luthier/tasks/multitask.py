"""Several tasks in one model: a head each on one trunk, or many sets of instructions in one model that writes.

Enters: records that each carry one or more tasks' own. Leaves, along the data path, what each task makes of its own
part. What both kinds share is here; `headed.py` has the tasks with heads of their own, `shared.py` those that write.
"""

from __future__ import annotations

import operator
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.errors import Fault, RecipeError
from luthier.recipe.sections import Data
from luthier.registry import TASKS, nearest

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.data.tokens import Encoded
    from luthier.recipe.tasks.multitask import Member, MultitaskOptions

LANGUAGE = ("causal", "masked", "chat", "text2text")
"""Tasks that have the vocabulary's head, and share it."""
ALONE = ("few_shot", "preference", "reward")
"""Tasks that train a model in a way of their own."""
BETWEEN = "+"
"""Stands between the names of tasks that annotate the same text, in the name of their stream."""


def multitask(options: MultitaskOptions, data: Data, *, tasks: Mapping[str, Any]) -> Multitask:
    """The tasks as one. `tasks`: by name the task, or what `state` said of it. Raises RecipeError for those that cannot share a model."""
    from luthier.tasks.headed import Headed
    from luthier.tasks.shared import Shared

    return (Shared if share_a_head(options) else Headed)(options, data, tasks=tasks)


def share_a_head(options: MultitaskOptions) -> bool:
    """Whether the tasks are such as share the vocabulary's head. Raises RecipeError for those that cannot share a model."""
    kinds = {m.options.type for m in options.tasks.values()}
    if alone := next((n for n, m in options.tasks.items() if m.options.type in ALONE), None):
        raise RecipeError([Fault("is trained alone", f"task.tasks.{alone}.type", "make it the recipe's task")])
    writing = kinds & set(LANGUAGE)
    if writing and len(kinds) > 1:
        found = ", ".join(sorted(kinds))
        remedy = "tasks that write share a head: give them one type, and no others"
        raise RecipeError([Fault(f"{found} cannot share one model", "task.tasks", remedy)])
    return bool(writing)


def data_of(data: Data, member: Member) -> Data:
    """A task's own data section: the recipe's, with what the task has otherwise."""
    return Data.model_validate({**data.model_dump(exclude_unset=True), **member.data})


class Multitask(ABC):
    """The tasks, and what they make together."""

    name = kind = "multitask"
    writes = answers = converses = masked = alters = False
    baselines: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def __init__(self, options: MultitaskOptions, data: Data, *, tasks: Mapping[str, Any]) -> None:
        self.options, self._data = options, data
        self.tasks = {n: t if hasattr(t, "encode") else self._restored(n, t) for n, t in tasks.items()}
        self.mains = {n: str(t["main"]) if isinstance(t, Mapping) else "" for n, t in tasks.items()}
        """Each task's main score; known after `fit`."""
        self._laid: dict[bool, tuple[list[Record], list[int], list[str]]] = {}
        self._left_out: list[str] = []

    def _restored(self, name: str, kept: Mapping[str, Any]) -> Any:
        own = self.options.tasks[name].options
        data = self._data.model_copy(update={"text": kept["text"], "text_pair": kept["text_pair"]})
        return TASKS.load(own.type)(own, data, **kept["state"])

    @property
    def data(self) -> Data:
        """The recipe's data section."""
        return self._data

    @data.setter
    def data(self, value: Data) -> None:
        self._data = value
        for name, task in self.tasks.items():
            task.data = data_of(value, self.options.tasks[name])

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    def columns(self) -> dict[str, str]:
        """The columns that records are made of, each with the recipe path that names it."""
        return {c: w for t in self.tasks.values() for c, w in t.columns().items()}

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """All text that a new tokenizer should know."""
        return [text for n, t in self.tasks.items() for text in t.corpus(self.own(n, records))]

    def own(self, name: str, records: Sequence[Record]) -> list[Record]:
        """A task's own records; a text without targets is every task's."""
        return [r if r.target is None else r.target[name] for r in records if has(r, name)]

    def places(self, name: str, records: Sequence[Record]) -> list[int]:
        """Where a task's own records stand among all."""
        return [i for i, r in enumerate(records) if has(r, name)]

    def fit(self, train: Sequence[Record]) -> None:
        """Settle each task's main score. Raises RecipeError for one that the task does not have."""
        for name, task in self.tasks.items():
            records, metric = self.own(name, train), self.options.tasks[name].metric
            self.mains[name] = metric or self._main(task, records)
            known = self._names(task, records)
            if metric is not None and metric not in known:
                guess = nearest(metric, known)
                remedy = f"did you mean {guess}?" if guess else f"one of: {', '.join(known)}"
                raise RecipeError([Fault(f"{task.kind} has no such score {metric!r}", f"task.tasks.{name}.metric", remedy)])

    def _main(self, task: Any, train: Sequence[Record]) -> str:
        """The score that counts for a task of which the recipe names none."""
        return str(task.metric)

    def _names(self, task: Any, train: Sequence[Record]) -> list[str]:
        """The scores that may be a task's main one."""
        import numpy as np

        gold = task.gold(train[:2])
        return list(task.scores(gold, np.zeros((len(gold), task.outputs))))

    def label_counts(self, records: Sequence[Record]) -> dict[str, int]:
        """Records of each label of each task."""
        return {f"{n}.{label}": c for n, t in self.tasks.items() for label, c in t.label_counts(self.own(n, records)).items()}

    def inferred(self) -> list[tuple[str, Any, str]]:
        """(recipe path, value, reason) of what the rows decided."""
        return [(p.replace("task.", f"task.tasks.{n}.options.", 1), v, w) for n, t in self.tasks.items() for p, v, w in t.inferred()]

    def state(self) -> dict[str, Any]:
        """What a saved model needs to answer again."""
        found = {n: {"state": t.state(), "text": t.data.text, "text_pair": t.data.text_pair} for n, t in self.tasks.items()}
        return {"tasks": {n: {**kept, "main": self.mains[n]} for n, kept in found.items()}}

    @property
    def fewest_updates(self) -> int:
        """As many as all of the tasks need; an update on texts of several tasks serves each of them."""
        needed = [t.fewest_updates for t in self.tasks.values()]
        streams = self._laid[True][2] if True in self._laid else []
        served = sum(len(s.split(BETWEEN)) for s in streams) / max(1, len(streams))
        return max(*needed, round(sum(needed) / max(1.0, served)))

    @property
    def fewest_epochs(self) -> int:
        return max(t.fewest_epochs for t in self.tasks.values())

    @property
    def most_epochs(self) -> int:
        return max(t.most_epochs for t in self.tasks.values())

    @property
    def _slowest(self) -> Any:
        return min(self.tasks.values(), key=lambda t: t.rate * t.rate_width**2)

    @property
    def rate(self) -> float:
        """The learning rate of the task that wants the lowest at any one width."""
        return float(self._slowest.rate)

    @property
    def rate_width(self) -> int:
        return int(self._slowest.rate_width)

    # ── examples ───────────────────────────────────────────────────────────────────────────────

    def _lay(self, records: Sequence[Record], encoded: Encoded, streams: list[str], *, train: bool) -> None:
        """Remember whose each example is: of the training part, and of what was laid out last."""
        owner = encoded.tokens.owner
        kept = [r for i, r in enumerate(records) if i not in encoded.rejected]
        found = (kept, [] if owner is None else owner.tolist(), streams)
        self._laid[False] = found
        if train:
            self._laid[True] = found

    def _owners(self, records: Sequence[Record]) -> tuple[list[int], list[str]]:
        """For each example of these records its record, and its stream."""
        for kept, owner, streams in self._laid.values():
            if len(kept) == len(records) and all(map(operator.is_, kept, records)):
                return owner, streams
        raise AssertionError("targets are for records that were laid out")

    def streams(self, count: int) -> list[str]:
        """The stream of each training example: its task, or those that annotate it."""
        return self._laid[True][2]

    # ── outputs to predictions and scores ──────────────────────────────────────────────────────

    def gold(self, records: Sequence[Record]) -> NDArray[Any]:
        """The tasks' own targets side by side, with how wide each is before them (0: a number), NaN where a record is not a task's."""
        import numpy as np

        pieces, sizes = [], []
        for name, task in self.tasks.items():
            rows = self.places(name, records)
            own = np.asarray(task.gold(self.own(name, records))) if rows else np.zeros(0)
            piece = np.full((len(records), max(1, int(np.prod(own.shape[1:], dtype=int)))), np.nan)
            piece[rows] = own.reshape(len(rows), piece.shape[1])
            pieces.append(piece)
            sizes.append(0 if own.ndim == 1 else piece.shape[1])
        return np.concatenate([widths(sizes, len(records)), *pieces], axis=1)

    @abstractmethod
    def said(self, outputs: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Each task's figures of every record."""

    def _parts(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """For each task the rows that are its own, their targets and its figures."""
        import numpy as np

        said = self.said(outputs)
        found, start = {}, len(self.tasks)
        for name, wide in zip(self.tasks, gold[0, :start].astype(int).tolist(), strict=True):
            piece = gold[:, start : start + max(1, wide)]
            start += max(1, wide)
            rows = np.flatnonzero(~np.isnan(piece[:, 0]))
            target = piece[rows] if wide else piece[rows, 0]
            whole = np.array_equal(target, np.floor(target))
            found[name] = rows, target.astype(np.int64) if whole else target, said[name][rows]
        return found

    def strata(self, gold: NDArray[Any]) -> tuple[NDArray[np.int64], dict[str, int]]:
        """For each record a number, the same for those of the same tasks; and how many records each task has."""
        import numpy as np

        first, place, sizes = len(self.tasks), len(self.tasks), gold[0, : len(self.tasks)].astype(int)
        member = np.zeros((len(gold), first), dtype=bool)
        for index, wide in enumerate(sizes.tolist()):
            member[:, index] = ~np.isnan(gold[:, place])
            place += max(1, wide)
        numbers = np.unique(member, axis=0, return_inverse=True)[1].reshape(-1)
        return numbers, dict(zip(self.tasks, member.sum(0).tolist(), strict=True))

    def row_loss(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over each record's tasks, for paired tests."""
        import numpy as np

        total, count = np.zeros(len(gold)), np.zeros(len(gold))
        for name, (rows, own, figures) in self._parts(gold, outputs).items():
            if len(rows):
                total[rows] += self.tasks[name].row_loss(own, figures)
                count[rows] += 1
        return total / np.maximum(count, 1)


def has(record: Record, name: str) -> bool:
    """Whether a record is a task's own."""
    return record.target is None or name in record.target


def widths(sizes: Sequence[int], count: int) -> NDArray[np.float64]:
    """The same widths before every row."""
    import numpy as np

    return np.tile(np.array(sizes, dtype=np.float64), (count, 1))
