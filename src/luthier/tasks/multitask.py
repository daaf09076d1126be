"""Several tasks in one model: a head each on one trunk, or many sets of instructions in one model that writes.

Enters: records that each carry one or more tasks' own. Leaves, along the data path, what each task makes of its own
part. Texts that several tasks annotate are one example, so that one pass of the trunk serves all of them; texts of
different tasks lie side by side in one ragged batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.data.tokens import UNGRADED, Encoded, assemble_tokens
from luthier.errors import Fault, RecipeError
from luthier.registry import TASKS

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.multitask import MultitaskOptions

LANGUAGE = ("causal", "masked", "chat", "text2text")
"""Tasks that have the vocabulary's head, and share it."""
BETWEEN = "+"
"""Stands between the names of tasks that annotate the same text, in the name of their stream."""


class Multitask:
    """The tasks, and what they make together."""

    name = kind = "multitask"
    writes = answers = converses = masked = False
    baselines: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()

    def __init__(self, options: MultitaskOptions, data: Data, *, tasks: Mapping[str, Any]) -> None:
        """`tasks`: by name the task, or what `state` said of it. Raises RecipeError for tasks that cannot share a model."""
        self.options, self.data = options, data
        self.tasks = {n: t if hasattr(t, "encode") else self._restored(n, t) for n, t in tasks.items()}
        kinds = {t.name for t in self.tasks.values() if t.name in LANGUAGE}
        self.shared = bool(kinds)
        if kinds and (len(kinds) > 1 or any(t.name not in LANGUAGE for t in self.tasks.values())):
            found = ", ".join(sorted({t.name for t in self.tasks.values()}))
            fault = Fault(
                f"{found} cannot share one model", "task.tasks", "tasks that write share a head: give them one type, and no others"
            )
            raise RecipeError([fault])
        if self.shared and options.weighing == "uncertainty":
            raise RecipeError([Fault("is for tasks with heads of their own", "task.weighing", "set it to fixed")])
        self.alters = self.shared and self.first.alters
        self._streams: list[str] = []
        self._records: list[int] = []
        self._grain: dict[str, float] = {}

    def _restored(self, name: str, kept: Mapping[str, Any]) -> Any:
        own = self.options.tasks[name].options
        data = self.data.model_copy(update={"text": kept["text"], "text_pair": kept["text_pair"]})
        return TASKS.load(own.type)(own, data, **kept["state"])

    @property
    def first(self) -> Any:
        """Any of the tasks, for what all of them share."""
        return next(iter(self.tasks.values()))

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    def columns(self) -> dict[str, str]:
        """The columns that records are made of, each with the recipe path that names it."""
        return {c: w for t in self.tasks.values() for c, w in t.columns().items()}

    def texts(self, values: Mapping[str, Any]) -> Any:
        """The text that every task reads, or why it cannot be read."""
        return self.first.texts(values)

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """All text that a new tokenizer should know."""
        return [text for n, t in self.tasks.items() for text in t.corpus(self.own(n, records))]

    def own(self, name: str, records: Sequence[Record]) -> list[Record]:
        """A task's own records; a text without targets is every task's."""
        return [r if r.target is None else r.target[name] for r in records if _has(r, name)]

    def fit(self, train: Sequence[Record]) -> None:
        """Every task has learned from its own records by now."""

    def label_counts(self, records: Sequence[Record]) -> dict[str, int]:
        """Records of each label of each task."""
        return {f"{n}.{label}": c for n, t in self.tasks.items() for label, c in t.label_counts(self.own(n, records)).items()}

    def inferred(self) -> list[tuple[str, Any, str]]:
        """(recipe path, value, reason) of what the rows decided."""
        return [(p.replace("task.", f"task.tasks.{n}.", 1), v, w) for n, t in self.tasks.items() for p, v, w in t.inferred()]

    def state(self) -> dict[str, Any]:
        """What a saved model needs to answer again."""
        found = {n: {"state": t.state(), "text": t.data.text, "text_pair": t.data.text_pair} for n, t in self.tasks.items()}
        return {"tasks": found}

    @property
    def outputs(self) -> int:
        """Figures of each record, task after task, with how many each has before them."""
        return 3 if self.shared else len(self.tasks) + sum(t.outputs for t in self.tasks.values())

    @property
    def fewest_updates(self) -> int:
        """As many as all of the tasks need."""
        return sum(t.fewest_updates for t in self.tasks.values())

    @property
    def fewest_epochs(self) -> int:
        return max(t.fewest_epochs for t in self.tasks.values())

    @property
    def most_epochs(self) -> int:
        return max(t.most_epochs for t in self.tasks.values())

    @property
    def rate(self) -> float:
        """The lowest of the tasks' learning rates, at the width of the first."""
        return min(float(t.rate) for t in self.tasks.values())

    @property
    def rate_width(self) -> int:
        return int(self.first.rate_width)

    @property
    def head_rate(self) -> dict[str, float]:
        """How many times as fast the heads learn whose tasks say so."""
        return {f"{n}.": float(t.head_rate) for n, t in self.tasks.items() if hasattr(t, "head_rate")}

    @property
    def metric(self) -> str:
        """The score by which checkpoints are compared where the recipe names none."""
        return "loss" if self.shared else "mean"

    def head(self, config: Any) -> Head:
        """A head for each task, or the one that all of them share."""
        from luthier.models.heads import Head
        from luthier.models.several import heads_of

        if self.shared:
            return self.first.head(config)  # type: ignore[no-any-return]
        parts = {n: t.head(config) for n, t in self.tasks.items()}
        return Head("module", module=heads_of(parts, weighed=self.options.weighing == "uncertainty"))

    def start(self, model: nn.Module) -> None:
        """Let every fresh head start as its task wants it."""
        for name, task in self.tasks.items():
            task.start(model if self.shared else model.head[name])  # type: ignore[index]

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Every task's examples; those of one record with the same tokens are one."""
        merged: dict[tuple[int, bytes], dict[str, Any]] = {}
        rejected: dict[int, str] = {}
        counts: dict[str, int] = {}
        truncated = 0
        for name, task in self.tasks.items():
            rows = [i for i, r in enumerate(records) if _has(r, name)]
            if not rows:
                continue
            own = self.own(name, records)
            encoded = task.encode(own, tokenizer, config=config, max_length=max_length, cache=cache, train=train)
            truncated += encoded.tokens.truncated
            for kind, n in encoded.counts.items():
                counts[kind] = counts.get(kind, 0) + n
            for place, reason in encoded.rejected.items():
                rejected[rows[place]] = reason
                if records[rows[place]].target is not None:
                    del records[rows[place]].target[name]
            kept = [row for place, row in enumerate(rows) if place not in encoded.rejected]
            owner = encoded.tokens.owner
            for index, example in enumerate(encoded.tokens.examples()):
                row = kept[index if owner is None else int(owner[index])]
                self._merge(merged, row, name, dict(example))
        rejected = {i: reason for i, reason in rejected.items() if not records[i].target}
        columns = list(dict.fromkeys(c for e in merged.values() for c in e))
        examples = [_filled(e, columns) for e in merged.values()]
        owners = [row for row, _ in merged]
        if train:
            self._records = owners
            self._streams = [BETWEEN.join(n for n in self.tasks if f"of.{n}" in e) for e in merged.values()]
            self._grain = {n: _grain(n, merged.values()) for n in self.tasks}
        return Encoded(assemble_tokens(examples, truncated=truncated, owner=owners), rejected, counts)

    def _merge(self, merged: dict[tuple[int, bytes], dict[str, Any]], row: int, name: str, example: dict[str, Any]) -> None:
        """Lay a task's marks onto the example of the same tokens."""
        import numpy as np

        ids = np.asarray(example.pop("input_ids"))
        key = (row, b"" if self.shared else ids.tobytes())
        found = merged.setdefault(key, {"input_ids": ids})
        for column, values in example.items():
            whole = column in ("token_type_ids", "source_ids") or self.shared
            found[column if whole else f"{name}.{column}"] = values
        found[f"of.{name}"] = np.ones(len(ids), dtype=np.int32)

    def alter(self, example: Mapping[str, Any], draw: Any) -> Mapping[str, Any]:
        """What an epoch shows of an example, where tasks hide words."""
        marks = {k: v for k, v in example.items() if k.startswith("of.")}
        return {**self.first.alter({k: v for k, v in example.items() if k not in marks}, draw), **marks}

    def streams(self, count: int) -> list[str]:
        """The stream of each training example: its task, or those that annotate it."""
        return self._streams

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """What a batch carries beside marks on tokens, under NAME.target, one row a training example."""
        import torch

        found: dict[str, Tensor] = {}
        for name, task in self.tasks.items():
            rows = [i for i, r in enumerate(records) if _has(r, name)]
            for target, values in task.targets(self.own(name, records)).items():
                whole = values.new_zeros(len(records), *values.shape[1:])
                whole[torch.tensor(rows)] = values
                found[f"{name}.{target}"] = whole[torch.tensor(self._records)]
        return found

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """Every task's mean loss over its own, each example counting once in each of its tasks.

        A task's sum is divided by what an example of it weighs on average in the training part, a constant, so that
        the gradient does not depend on how an update is cut. Weighed by uncertainty (Kendall et al. 2018, eq. 7), a loss l
        becomes exp(-s) l + s / 2 with a learned s.
        """
        from dataclasses import replace

        from luthier.models.batch import Loss
        from luthier.models.forward import hidden_states
        from luthier.models.several import member, part_of, ready

        if self.shared:
            return self.first.loss(layout)  # type: ignore[no-any-return]
        ragged = replace(layout, kind="ragged")
        losses = {n: t.loss(ragged) for n, t in self.tasks.items()}
        weights = {n: m.weight for n, m in self.options.tasks.items()}

        def together(model: nn.Module, batch: Batch) -> Loss:
            states = hidden_states(model, batch, layout)
            total, parts = states.new_zeros((), dtype=states.dtype).float(), {}
            for name in self.tasks:
                chosen = member(batch, name)
                if not len(chosen):
                    continue
                own, places = part_of(batch, name, chosen)
                found = losses[name](ready(model, name, states[places]), own)  # type: ignore[arg-type]
                value = found.sum / self._grain.get(name, 1.0)
                parts[name] = float(value.detach())
                parts[f"{name}.examples"] = float(len(chosen))
                variance = getattr(model.head, "log_variance", None)
                if variance is not None:
                    value = value * (-variance[name]).exp() + variance[name] / 2 * len(chosen)
                total = total + weights[name] * value
            return Loss(total, float(batch.segments.count), parts)

        return together

    def answer(self, layout: Layout) -> Any:
        """What evaluation asks of each segment; of heads of their own, each task's for the segments that are its."""
        from dataclasses import replace

        from luthier.models.forward import hidden_states
        from luthier.models.several import MEMBER, Parts, member, part_of, ready

        if self.shared:
            return self.first.answer(layout)
        ragged = replace(layout, kind="ragged")

        def of(name: str, answer: Callable[[nn.Module, Batch], Tensor]) -> Callable[[nn.Module, Batch], Tensor]:
            def own(model: nn.Module, batch: Batch) -> Tensor:
                part, places = part_of(batch, name, member(batch, name))
                return answer(ready(model, name, hidden_states(model, batch, layout)[places]), part)  # type: ignore[arg-type]

            return own

        return Parts({f"{MEMBER}.{n}": of(n, t.answer(ragged)) for n, t in self.tasks.items()})

    def combine(self, records: Sequence[Record]) -> Callable[[Any, Any], NDArray[np.float64]]:
        """How the tasks' figures become one line a record: how many each task has, then its own; zero where it has no part."""
        import numpy as np

        def combined(found: Any, owner: Any) -> NDArray[np.float64]:
            if self.shared:
                whole = np.zeros((len(records), found.shape[1]))
                np.add.at(whole, owner, found)
                return whole
            pieces = []
            for index, (name, task) in enumerate(self.tasks.items()):
                rows = np.array([i for i, r in enumerate(records) if _has(r, name)], dtype=np.int64)
                figures, own = found[index], np.searchsorted(rows, owner[index])
                if not len(rows):
                    pieces.append(np.zeros((len(records), task.outputs)))
                    continue
                if hasattr(task, "combine"):
                    lines = task.combine(self.own(name, records))(figures, own)
                else:
                    lines = np.zeros((len(rows), figures.shape[1]))
                    np.add.at(lines, own, figures)
                piece = np.zeros((len(records), lines.shape[1]))
                piece[rows] = lines
                pieces.append(piece)
            return np.concatenate([_widths([p.shape[1] for p in pieces], len(records)), *pieces], axis=1)

        return combined

    # ── outputs to predictions and scores ──────────────────────────────────────────────────────

    def gold(self, records: Sequence[Record]) -> NDArray[Any]:
        """The tasks' own targets side by side, with how wide each is before them (0: a number), NaN where a record is not a task's."""
        import numpy as np

        pieces, widths = [], []
        for name, task in self.tasks.items():
            rows = [i for i, r in enumerate(records) if _has(r, name)]
            own = np.asarray(task.gold(self.own(name, records))) if rows else np.zeros(0)
            piece = np.full((len(records), max(1, int(np.prod(own.shape[1:], dtype=int)))), np.nan)
            piece[rows] = own.reshape(len(rows), piece.shape[1])
            pieces.append(piece)
            widths.append(0 if own.ndim == 1 else piece.shape[1])
        return np.concatenate([_widths(widths, len(records)), *pieces], axis=1)

    def _parts(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, tuple[NDArray[Any], NDArray[Any], NDArray[Any]]]:
        """For each task the rows that are its own, their targets and its figures."""
        import numpy as np

        said = dict.fromkeys(self.tasks, outputs) if self.shared else self._said(outputs)
        found, start = {}, len(self.tasks)
        for name, wide in zip(self.tasks, gold[0, :start].astype(int).tolist(), strict=True):
            piece = gold[:, start : start + max(1, wide)]
            start += max(1, wide)
            rows = np.flatnonzero(~np.isnan(piece[:, 0]))
            target = piece[rows] if wide else piece[rows, 0]
            whole = np.array_equal(target, np.floor(target))
            found[name] = rows, target.astype(np.int64) if whole else target, said[name][rows]
        return found

    def _said(self, outputs: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """Each task's figures of every record."""
        found, first = {}, len(self.tasks)
        for (name, task), width in zip(self.tasks.items(), outputs[0, :first].astype(int).tolist(), strict=True):
            found[name] = outputs[:, first : first + (width or task.outputs)]
            first += width or task.outputs
        return found

    def scores(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """Every task's own scores under its name, the loss as training has it, and the mean of their main scores."""
        found: dict[str, float] = {}
        loss, mains = 0.0, []
        for name, (rows, own, figures) in self._parts(gold, outputs).items():
            if not len(rows):
                continue
            scores = self.tasks[name].scores(own, figures)
            found |= {f"{name}.{n}": v for n, v in scores.items()}
            loss += self.options.tasks[name].weight * scores["loss"] * len(rows) / max(1, len(gold))
            mains.append(scores.get(self.tasks[name].metric, scores["loss"]))
        return {"loss": loss} | ({} if self.shared else {"mean": sum(mains) / max(1, len(mains))}) | found

    def row_loss(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """The mean over each record's tasks, for paired tests."""
        import numpy as np

        total, count = np.zeros(len(gold)), np.zeros(len(gold))
        for name, (rows, own, figures) in self._parts(gold, outputs).items():
            if len(rows):
                total[rows] += self.tasks[name].row_loss(own, figures)
                count[rows] += 1
        return total / np.maximum(count, 1)

    def predictions(self, records: Sequence[Record], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
        """For each record, task by task, its target and what the model said."""
        found: list[dict[str, Any]] = [{"target": {}} for _ in records]
        said = dict.fromkeys(self.tasks, outputs) if self.shared else self._said(outputs)
        for name, task in self.tasks.items():
            rows = [i for i, r in enumerate(records) if _has(r, name)]
            for row, one in zip(rows, task.predictions(self.own(name, records), said[name][rows]), strict=True):
                found[row]["target"][name] = one.pop("target", None)
                found[row][name] = one
        return found

    def decode(self, outputs: NDArray[np.float64], records: Sequence[Record]) -> list[dict[str, Any]]:
        """What every task says of each text, by its name."""
        said = {n: self.tasks[n].decode(own, records) for n, own in self._said(outputs).items()}
        return [dict(zip(said, answers, strict=True)) for answers in zip(*said.values(), strict=True)]

    def text_score_names(self) -> tuple[str, ...]:
        """No texts are written in evaluation."""
        return ()

    def text_scorer(self) -> None:
        """No texts are written in evaluation."""


def _has(record: Record, name: str) -> bool:
    """Whether a record is a task's own."""
    return record.target is None or name in record.target


def _widths(widths: Sequence[int], count: int) -> NDArray[np.float64]:
    """The same widths before every row."""
    import numpy as np

    return np.tile(np.array(widths, dtype=np.float64), (count, 1))


def _filled(example: Mapping[str, Any], columns: Sequence[str]) -> dict[str, Any]:
    """The example with every column; those of other tasks mark nothing."""
    import numpy as np

    size = len(example["input_ids"])
    empty = {c: np.zeros(size, dtype=np.int32) if c == "token_type_ids" else np.full(size, UNGRADED, dtype=np.int32) for c in columns}
    return {c: example.get(c, empty[c]) for c in columns}


def _grain(name: str, examples: Any) -> float:
    """How many places of an example a task grades on average; 1 where it grades the whole of it."""
    import numpy as np

    own = [e for e in examples if f"of.{name}" in e]
    marks = [c for e in own[:1] for c in e if c.startswith(f"{name}.")]
    if not own or not marks:
        return 1.0
    graded = [int((np.asarray(e[marks[-1]]) != UNGRADED).sum()) for e in own]
    return max(1.0, sum(graded) / len(graded))
