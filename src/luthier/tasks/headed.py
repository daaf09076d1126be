"""Several tasks with a head each on one trunk.

Enters: records that each carry one or more tasks' own. Leaves, along the data path, what each task makes of its part.
Texts that several tasks annotate are one example, so that one pass of the trunk serves all of them; texts of different
tasks lie side by side in one ragged batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.data.rows import Row
from luthier.data.tokens import UNGRADED, Encoded, assemble_tokens
from luthier.errors import DataError
from luthier.tasks.multitask import BETWEEN, Multitask, widths

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.data.tokens import Tokens
    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Training

WHOLE = ("token_type_ids", "part")
"""Columns that are the same for all tasks of an example: kinds of tokens, and the number of the text in it."""
Example = dict[str, Any]


class Headed(Multitask):
    """Tasks with heads of their own."""

    metric = "mean"

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    def record(self, row: Row) -> Record | str:
        """What every task finds in the row, or why none finds anything."""
        found = {n: t.record(row) for n, t in self.tasks.items()}
        own = {n: r for n, r in found.items() if isinstance(r, Record)}
        if not own:
            return "; ".join(f"{n}: {reason}" for n, reason in found.items())
        first = next(iter(own.values()))
        return Record(first.text, first.pair, own, row.file, row.line)

    def texts(self, values: Mapping[str, Any]) -> Record | str:
        """What each task reads of a row, in its own prompt and columns; or why one of them cannot."""
        own: dict[str, Record] = {}
        for name, task in self.tasks.items():
            found = task.texts(values)
            if isinstance(found, str):
                return f"{name}: {found}"
            own[name] = found if isinstance(found, Record) else Record(found[0], found[1], None, "", 0)
        first = next(iter(own.values()))
        return Record(first.text, first.pair, own, "", 0)

    @property
    def outputs(self) -> int:
        """Figures of each record, task after task, with how many each has before them."""
        return len(self.tasks) + sum(t.outputs for t in self.tasks.values())

    @property
    def head_rate(self) -> dict[str, float]:
        """How many times as fast the heads learn whose tasks say so."""
        return {f"{n}.": float(t.head_rate) for n, t in self.tasks.items() if hasattr(t, "head_rate")}

    def head(self, config: Any) -> Head:
        """A head for each task."""
        from luthier.models.heads import Head
        from luthier.models.several import heads_of

        parts = {n: t.head(config) for n, t in self.tasks.items()}
        return Head("module", module=heads_of(parts, weighed=self.options.weighing == "uncertainty"))

    def start(self, model: nn.Module) -> None:
        """Let every fresh head start as its task wants it."""
        for name, task in self.tasks.items():
            task.start(model.head[name])  # type: ignore[index]

    def cautions(self, tokens: Tokens, options: Training) -> list[str]:
        """What is to be known before training, of each task."""
        return self._left_out + [
            f"{n}: {text}"
            for n, t in self.tasks.items() if hasattr(t, "cautions")
            for text in t.cautions(tokens.at(tokens.marked(f"of.{n}")), options)
        ]  # fmt: skip

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Every task's examples; those of one record with the same tokens are one."""
        merged: dict[tuple[int, bytes, int], Example] = {}
        rejected: dict[int, str] = {}
        counts: dict[str, int] = {}
        lost: dict[str, list[str]] = {}
        truncated = 0
        for name, task in self.tasks.items():
            rows = self.places(name, records)
            if not rows:
                continue
            own = self.own(name, records)
            encoded = task.encode(own, tokenizer, config=config, max_length=max_length, cache=cache, train=train)
            truncated += encoded.tokens.truncated
            for kind, n in encoded.counts.items():
                counts[kind] = counts.get(kind, 0) + n
            for place, reason in encoded.rejected.items():
                rejected[rows[place]] = f"{name}: {reason}"
                if not _asked(records[rows[place]]):
                    del records[rows[place]].target[name]
                    lost.setdefault(name, []).append(reason)
            kept = [row for place, row in enumerate(rows) if place not in encoded.rejected]
            owner = encoded.tokens.owner
            seen: dict[tuple[int, bytes], int] = {}
            for index, example in enumerate(encoded.tokens.examples()):
                row = kept[index % len(kept) if owner is None else int(owner[index])]
                self._merge(merged, seen, row, name, dict(example))
        rejected = {i: reason for i, reason in rejected.items() if not records[i].target or _asked(records[i])}
        laid = sorted(((k, e) for k, e in merged.items() if k[0] not in rejected), key=lambda item: item[0][0])
        examples = [example for _, example in laid]
        columns = list(dict.fromkeys(c for e in examples for c in e))
        tokens = assemble_tokens([_filled(e, columns) for e in examples], truncated=truncated, owner=[key[0] for key, _ in laid])
        which = "training" if train else "held-out"
        self._left_out += [f"{n}: {len(r)} {which} texts are left out of it, the first: {r[0]}" for n, r in lost.items()]
        if train and (empty := next((n for n in self.tasks if not any(f"of.{n}" in e for e in examples)), None)):
            raise DataError("no usable rows for training", where=f"task.tasks.{empty}.data", remedy=next(iter(lost.get(empty, [])), None))
        if train:
            self._grain = {n: _grain(n, examples) for n in self.tasks}
        streams = [BETWEEN.join(n for n in self.tasks if f"of.{n}" in e) for e in examples]
        encoded = Encoded(tokens, rejected, counts)
        self._lay(records, encoded, streams, train=train)
        return encoded

    def _merge(
        self, merged: dict[tuple[int, bytes, int], Example], seen: dict[tuple[int, bytes], int], row: int, name: str, example: Example
    ) -> None:
        """Lay a task's marks onto the example of the same tokens; a task that has the same tokens twice has two examples."""
        import numpy as np

        ids = np.asarray(example.pop("input_ids"))
        number = seen[row, ids.tobytes()] = seen.get((row, ids.tobytes()), -1) + 1
        found = merged.setdefault((row, ids.tobytes(), number), {"input_ids": ids})
        for column, values in example.items():
            found[column if column in WHOLE else f"{name}.{column}"] = values
        found[f"of.{name}"] = np.ones(len(ids), dtype=np.int32)

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """What a batch carries beside marks on tokens, under NAME.target, one row an example."""
        import torch

        owner, _ = self._owners(records)
        found: dict[str, Tensor] = {}
        for name, task in self.tasks.items():
            rows = self.places(name, records)
            for target, values in task.targets(self.own(name, records)).items():
                whole = values.new_zeros(len(records), *values.shape[1:])
                whole[torch.tensor(rows, dtype=torch.long)] = values
                found[f"{name}.{target}"] = whole[torch.tensor(owner)]
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
                value, examples = found.sum / self._grain.get(name, 1.0), float(len(set(own.rows)))
                parts[name] = float(value.detach())
                parts[f"{name}.examples"] = examples
                variance = getattr(model.head, "log_variance", None)
                if variance is not None:
                    value = value * (-variance[name]).exp() + variance[name] / 2 * examples
                total = total + weights[name] * value
            return Loss(total, float(len(set(batch.rows))), parts)

        return together

    def answer(self, layout: Layout) -> Any:
        """What evaluation asks: each task's own, of the segments that are its, with one pass of the trunk for all."""
        from dataclasses import replace
        from functools import partial

        from luthier.models.forward import hidden_states
        from luthier.models.several import Parts

        ragged = replace(layout, kind="ragged")
        return Parts(partial(hidden_states, layout=layout), {n: t.answer(ragged) for n, t in self.tasks.items()})

    def combine(self, records: Sequence[Record]) -> Callable[[Any, Any], NDArray[np.float64]]:
        """How the tasks' figures become one line a record: how many each task has, then its own; zero where it has no part."""
        import numpy as np

        def combined(found: Any, owner: Any) -> NDArray[np.float64]:
            pieces = []
            for index, (name, task) in enumerate(self.tasks.items()):
                rows = np.array(self.places(name, records), dtype=np.int64)
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
            return np.concatenate([widths([p.shape[1] for p in pieces], len(records)), *pieces], axis=1)

        return combined

    # ── outputs to predictions and scores ──────────────────────────────────────────────────────

    def said(self, outputs: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
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
            mains.append(scores.get(self.mains[name], scores["loss"]))
        return {"loss": loss, "mean": sum(mains) / max(1, len(mains))} | found

    def predictions(self, records: Sequence[Record], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
        """For each record, task by task, its target and what the model said."""
        found: list[dict[str, Any]] = [{"target": {}} for _ in records]
        said = self.said(outputs)
        for name, task in self.tasks.items():
            rows = self.places(name, records)
            for row, one in zip(rows, task.predictions(self.own(name, records), said[name][rows]), strict=True):
                found[row]["target"][name] = one.pop("target", None)
                found[row][name] = one
        return found

    def decode(self, outputs: NDArray[np.float64], records: Sequence[Record]) -> list[dict[str, Any]]:
        """What every task says of each text, by its name."""
        said = {n: self.tasks[n].decode(figures, self.own(n, records)) for n, figures in self.said(outputs).items()}
        return [dict(zip(said, answers, strict=True)) for answers in zip(*said.values(), strict=True)]

    def text_score_names(self) -> tuple[str, ...]:
        """Nothing is written."""
        return ()

    def text_scorer(self) -> None:
        """Nothing is written."""


def _asked(record: Record) -> bool:
    """Whether a record has no targets: it is answered by all of its tasks, or by none."""
    return record.target is None or all(own.target is None for own in record.target.values())


def _filled(example: Mapping[str, Any], columns: Sequence[str]) -> Example:
    """The example with every column; those of other tasks mark nothing."""
    import numpy as np

    size = len(example["input_ids"])
    empty = {c: np.full(size, 0 if c in WHOLE else UNGRADED, dtype=np.int32) for c in columns}
    return {c: example.get(c, empty[c]) for c in columns}


def _grain(name: str, examples: Iterable[Example]) -> float:
    """How many places of an example a task grades on average; 1 where it grades the whole of it, or compares its texts."""
    import numpy as np

    own = [e for e in examples if f"of.{name}" in e]
    marks = [c for e in own[:1] for c in e if c.startswith(f"{name}.")]
    if not own or not marks or "part" in own[0]:
        return 1.0
    graded = [int((np.asarray(e[marks[-1]]) != UNGRADED).sum()) for e in own]
    return max(1.0, sum(graded) / len(graded))
