"""Classification: one label, several labels, or a number, for a text or a pair of texts.

Enters: rows. Leaves, along the data path: records, token ids with targets, the loss of a batch,
decoded predictions and scores. Torch is imported only where a batch is computed, so that a data set
can be checked without it.
"""

from __future__ import annotations

import math
import string
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record, excluded, need_columns
from luthier.data.rows import Row, Rows, cell_text
from luthier.data.split import Part
from luthier.data.tokens import Encoded, tokenize
from luthier.errors import DataError
from luthier.registry import nearest
from luthier.tasks.labels import NO, YES, Kind, cells, kind_of, label_space

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.classification import ClassificationOptions

PROBLEM_TYPES = {
    "single_label": "single_label_classification",
    "multi_label": "multi_label_classification",
    "regression": "regression",
}
MAX_LABELS = 1000


class Classification:
    """The task, with the label space that the training rows gave it."""

    name = "classification"
    extends = True
    writes = answers = converses = alters = masked = False
    baselines = ("majority", "tfidf", "frozen")
    fewest_epochs, most_epochs = 3, 20
    rate, rate_width = 2e-4, 384

    def __init__(self, options: ClassificationOptions, data: Data, *, kind: Kind, labels: Sequence[str], by_number: bool = False) -> None:
        self.options, self.data, self.kind, self.labels = options, data, kind, tuple(labels)
        self._index = {str(i) if by_number else label: i for i, label in enumerate(labels)}
        self.by_number = by_number
        self.class_weights: list[float] | None = None
        self.prior: list[float] | None = None

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    @classmethod
    def plan(
        cls, options: ClassificationOptions, data: Data, rows: dict[Part, Rows], *, earlier: Classification | None = None
    ) -> Classification:
        """Find the kind and the labels in the training rows; those of an `earlier` task come first.

        Raises DataError for missing columns, fewer than two labels, or labels of other parts that
        training never shows.
        """
        columns = _columns(options, data)
        for part in rows.values():
            need_columns(part, columns)
        train = rows["train"].rows
        kind = options.kind if options.kind != "auto" else earlier.kind if earlier is not None else kind_of(data, train)
        if kind == "regression":
            number = cls(options, data, kind=kind, labels=["score"])
            number._refuse_leak(train)
            return number
        seen = Counter(v for row in train if not excluded(row, data) for v in cells(row, data))
        wanted = options.labels or (data.label if isinstance(data.label, list) else None)
        if earlier is not None and earlier.by_number:
            wanted = wanted or list(earlier.labels)
        labels, by_number = label_space(wanted, seen, known=earlier.labels if earlier is not None and earlier.kind == kind else ())
        task = cls(options, data, kind=kind, labels=labels, by_number=by_number)
        if len(labels) < 2:
            raise DataError(
                f"training has only the label {labels[0]!r}" if labels else "training has no labels",
                where="data.label",
                remedy="a classifier needs rows of at least two classes",
            )
        if len(labels) > MAX_LABELS:
            raise DataError(
                f"{len(labels)} different labels",
                where="data.label",
                remedy="is this the label column? for numbers set task.kind: regression",
            )
        task._refuse_unknown(rows)
        task._refuse_leak(rows["train"].rows)
        return task

    def columns(self) -> dict[str, str]:
        """The columns that records are made of, each with the recipe path that names it."""
        return _columns(self.options, self.data)

    def record(self, row: Row) -> Record | str:
        """The row's texts and target, or why it cannot be used."""
        texts = self.texts(row.values)
        if isinstance(texts, str):
            return texts
        target = self._target(row)
        return target if isinstance(target, str) else Record(texts[0], texts[1], target, row.file, row.line)

    def texts(self, values: Mapping[str, Any]) -> tuple[str, str | None] | str:
        """The text (in its prompt) and its pair, or why the row has none; the same in training and in prediction."""
        found = [values.get(self.data.text)] + ([values.get(self.data.text_pair)] if self.data.text_pair else [])
        for text in found:
            if text is None or not str(text).strip():
                return "empty text"
            if not isinstance(text, str):
                return "text is not a string"
            if any("\ud800" <= c <= "\udfff" for c in text):
                return "text is not valid Unicode"
        text = str(found[0])
        if self.options.prompt:
            others = {n: values.get(n) for n in _prompt_fields(self.options.prompt)}
            if any(v is None or v == "" for v in others.values()):
                return "a column of the prompt is empty"
            text = self.options.prompt.format(**{**others, "text": text})
        return text, str(found[1]) if len(found) > 1 else None

    def _target(self, row: Row) -> Any:
        if self.kind == "regression":
            try:
                value = float(row.values[str(self.data.label)])
            except (TypeError, ValueError, KeyError):
                return f"not a number: {row.values.get(str(self.data.label))!r}"
            return value if math.isfinite(value) else "not a finite number"
        if isinstance(self.data.label, list):
            odd = next((c for c in self.data.label if cell_text(row.values.get(c)).lower() not in YES | NO), None)
            if odd is not None:
                return f"not 0 or 1: {odd} is {row.values.get(odd)!r}"
        elif self.kind == "multi_label" and self.data.label not in row.values:
            return "no label"
        named = cells(row, self.data)
        if self.kind == "single_label" and len(set(named)) != 1:
            return "several labels" if named else "no label"
        unknown = [c for c in named if c not in self._index]
        if unknown:
            return f"unknown label: {unknown[0]!r}"
        found = sorted({self._index[c] for c in named})
        return found[0] if self.kind == "single_label" else tuple(found)

    def stratum(self, record: Record) -> str:
        """Rows of one stratum are shared out in proportion."""
        if self.kind == "regression":
            return "all"
        return str(record.target if self.kind == "single_label" else (record.target or ("none",))[0])

    def _refuse_unknown(self, rows: dict[Part, Rows]) -> None:
        for part, held in rows.items():
            for row in held.rows:
                unknown = next((c for c in cells(row, self.data) if c not in self._index), None)
                if unknown is not None and not excluded(row, self.data):
                    guess = nearest(unknown, self._index)
                    raise DataError(
                        f"label {unknown!r} of the {part} part is not among those of training",
                        where=f"{row.file}:{row.line}",
                        remedy=(f"did you mean {guess!r}? " if guess else "")
                        + "correct it, add training rows with it, or leave it out with data.exclude",
                    )

    def _refuse_leak(self, rows: Sequence[Row]) -> None:
        leak = self.leaks(rows)
        if leak:
            raise DataError(f"the prompt gives the label away: {leak}", where="task.prompt", remedy="take that column out of the prompt")

    def leaks(self, rows: Sequence[Row]) -> str | None:
        """The prompt column that gives the label away, if one does.

        A column gives it away when it holds the label's name itself, or when its values repeat and
        each goes with one label only.
        """
        rows = [r for r in rows if not excluded(r, self.data)]
        label_columns = {self.data.label} if isinstance(self.data.label, str) else set(self.data.label)
        for column in _prompt_fields(self.options.prompt):
            if column in (self.data.text, "text"):
                continue
            if column in label_columns:
                return f"{column!r} is the label itself"
            pairs = Counter((str(r.values.get(column)).strip(), "|".join(cells(r, self.data))) for r in rows)
            values = {value for value, _ in pairs}
            if rows and sum(n for (value, label), n in pairs.items() if value.casefold() == label.casefold()) > 0.9 * len(rows):
                return f"{column!r} holds the label"
            pure = len(pairs) == len(values)
            if pure and 1 < len(values) <= len(rows) // 3:
                return f"each value of {column!r} goes with one label only"
        return None

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """All text that a new tokenizer should know."""
        return [t for r in records for t in (r.text, r.pair) if t]

    # ── label statistics ───────────────────────────────────────────────────────────────────────

    def fit(self, train: Sequence[Record]) -> None:
        """Learn from the training records what training needs: class weights, and where a fresh head starts.

        A head of numbers starts at the mean; one of several labels at each label's log-odds (Lin et al.
        2017, sec. 3.3), since most labels are rare and would take a long walk down from one half.
        """
        if self.kind != "regression" and len({str(r.target) for r in train}) < 2:
            raise DataError(
                "the usable training rows have one class only",
                where="data.label",
                remedy="a classifier needs rows of at least two classes",
            )
        if self.kind == "regression":
            self.prior = [sum(r.target for r in train) / len(train)]
            return
        wanted = self.options.class_weights
        if self.kind == "multi_label" and wanted == "none":
            shares = [(n + 0.5) / (len(train) + 1) for n in self.label_counts(train).values()]
            self.prior = [math.log(s / (1 - s)) for s in shares]
        if wanted == "none":
            return
        counts = self.label_counts(train)
        if wanted == "balanced":
            n, multi = len(train), self.kind == "multi_label"
            self.class_weights = [((n - c) / max(c, 1) if multi else n / (len(self.labels) * max(c, 1))) for c in counts.values()]
            return
        unknown = next((k for k in wanted if k not in self.labels), None)
        if unknown is not None:
            raise DataError(f"no label {unknown!r}", where="task.class_weights", remedy=f"labels: {', '.join(self.labels[:20])}")
        self.class_weights = [wanted.get(label, 1.0) for label in self.labels]  # type: ignore[union-attr]

    def label_counts(self, records: Sequence[Record]) -> dict[str, int]:
        """Records of each label."""
        if self.kind == "regression":
            return {}
        counts = Counter(i for r in records for i in ([r.target] if self.kind == "single_label" else r.target))
        return {label: counts[i] for i, label in enumerate(self.labels)}

    @property
    def outputs(self) -> int:
        """Width of the head."""
        return len(self.labels)

    @property
    def fewest_updates(self) -> int:
        """Updates that training should have at least: more labels take more."""
        return 100 + 25 * self.outputs

    def head(self, config: Any) -> Head:
        """A head of one value a label."""
        from luthier.models.heads import Head

        return Head("classes", self.outputs, self.labels, PROBLEM_TYPES[self.kind])

    def start(self, model: nn.Module, *, rows: Sequence[int] | None = None) -> None:
        """Let a fresh head, or fresh `rows` of one, start where the labels say, so that training need not walk there."""
        import torch

        biases = [p for n, p in model.named_parameters() if n.endswith("bias") and p.shape == (self.outputs,)]
        if self.prior is not None and biases:
            chosen = list(range(self.outputs) if rows is None else rows)
            with torch.no_grad():
                biases[-1][chosen] = torch.tensor(self.prior, dtype=biases[-1].dtype)[chosen]

    @property
    def metric(self) -> str:
        """The score by which checkpoints are compared where the recipe names none."""
        return {"single_label": "accuracy", "multi_label": "f1_micro", "regression": "pearson"}[self.kind]

    def inferred(self) -> list[tuple[str, Any, str]]:
        """(recipe path, value, reason) of what the rows decided."""
        found: list[tuple[str, Any, str]] = []
        if self.options.kind == "auto":
            found.append(("task.kind", self.kind, "the label column"))
        if self.options.labels is None:
            found.append(("task.labels", list(self.labels), "the training rows"))
        return found

    def state(self) -> dict[str, Any]:
        """What a saved model needs to predict again."""
        return {"kind": self.kind, "labels": list(self.labels), "by_number": self.by_number}

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Each record's tokens, special ones included, cut to `max_length`."""
        pairs = [r.pair for r in records] if self.data.text_pair else None
        return Encoded(tokenize([r.text for r in records], pairs, tokenizer.backend_tokenizer, max_length=max_length, cache=cache))

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """What a batch carries: the targets under `labels`."""
        return {"labels": self._table(records)}

    def answer(self, layout: Layout) -> Callable[[nn.Module, Batch], Tensor]:
        """What evaluation asks of each segment: the head's values, (segments, outputs)."""
        from luthier.models.forward import pooled_logits

        return lambda model, batch: pooled_logits(model, batch, layout)

    def _table(self, records: Sequence[Record]) -> Tensor:
        """Targets, one row a record: (n,) int64, (n, labels) float, or (n,) float."""
        import torch

        if self.kind == "single_label":
            return torch.tensor([r.target for r in records], dtype=torch.int64)
        if self.kind == "regression":
            return torch.tensor([r.target for r in records], dtype=torch.float32)
        table = torch.zeros(len(records), len(self.labels))
        for i, record in enumerate(records):
            table[i, list(record.target)] = 1.0
        return table

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss function `(model, batch) -> Loss`: sums and weights as torch's own means have them."""
        import torch

        from luthier.models.batch import Loss
        from luthier.models.forward import pooled_logits

        weights = None if self.class_weights is None else torch.tensor(self.class_weights)
        smoothing, functional = self.options.label_smoothing, torch.nn.functional

        def single(model: nn.Module, batch: Batch) -> Loss:
            logits, gold = pooled_logits(model, batch, layout).float(), batch.targets["labels"]
            weight = None if weights is None else weights.to(logits.device)
            total = functional.cross_entropy(logits, gold, weight=weight, label_smoothing=smoothing, reduction="sum")
            return Loss(total, float(len(gold) if weight is None else weight[gold].sum()))

        def multi(model: nn.Module, batch: Batch) -> Loss:
            logits, gold = pooled_logits(model, batch, layout).float(), batch.targets["labels"]
            smooth = gold * (1 - smoothing) + smoothing / 2
            weight = None if weights is None else weights.to(logits.device)
            total = functional.binary_cross_entropy_with_logits(logits, smooth, pos_weight=weight, reduction="sum")
            return Loss(total, float(gold.numel()))

        def number(model: nn.Module, batch: Batch) -> Loss:
            outputs, gold = pooled_logits(model, batch, layout).float()[:, 0], batch.targets["labels"]
            return Loss(functional.mse_loss(outputs, gold, reduction="sum"), float(len(gold)))

        return {"single_label": single, "multi_label": multi, "regression": number}[self.kind]

    # ── outputs to predictions and scores ──────────────────────────────────────────────────────

    def decode(self, outputs: NDArray[np.float64], records: Sequence[Record] = ()) -> list[dict[str, Any]]:
        """Model outputs (n, width) as predictions for people; the records are not looked at."""
        from luthier.tasks.metrics import sigmoid, softmax

        if self.kind == "regression":
            return [{"value": float(row[0])} for row in outputs]
        if self.kind == "single_label":
            return [
                {"label": self.labels[int(p.argmax())], "score": float(p.max()), "scores": dict(zip(self.labels, p.tolist(), strict=True))}
                for p in softmax(outputs)
            ]
        return [
            {
                "labels": [label for label, x in zip(self.labels, p, strict=True) if x >= self.options.threshold],
                "scores": dict(zip(self.labels, p.tolist(), strict=True)),
            }
            for p in sigmoid(outputs)
        ]

    def text_score_names(self) -> tuple[str, ...]:
        """Labels are no texts."""
        return ()

    def text_scorer(self) -> None:
        """Labels are no texts."""

    def predictions(self, records: Sequence[Record], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
        """For each record its target by name, and what the model said."""
        return [{"target": self._named(r.target), **said} for r, said in zip(records, self.decode(outputs), strict=True)]

    def _named(self, target: Any) -> Any:
        if self.kind == "regression":
            return target
        return self.labels[target] if self.kind == "single_label" else [self.labels[i] for i in target]

    def gold(self, records: Sequence[Record]) -> NDArray[Any]:
        """Targets as the array that `scores` takes."""
        return self._table(records).numpy()

    def scores(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """Every score of the kind."""
        from luthier.tasks import metrics

        if self.kind == "single_label":
            return metrics.single_label(gold, outputs)
        if self.kind == "regression":
            return metrics.regression(gold, outputs)
        return metrics.multi_label(gold, outputs, self.options.threshold)

    def row_loss(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """How wrong each row is, in [0, 1] for labels, absolute error for numbers; for paired tests."""
        import numpy as np

        from luthier.tasks.metrics import sigmoid

        if self.kind == "single_label":
            return (outputs.argmax(axis=1) != gold).astype(float)
        if self.kind == "regression":
            return np.abs(outputs[:, 0] - gold)
        return ((sigmoid(outputs) >= self.options.threshold) != gold).mean(axis=1)


def _columns(options: ClassificationOptions, data: Data) -> dict[str, str]:
    columns = dict.fromkeys(_prompt_fields(options.prompt), "task.prompt")
    columns |= {data.text: "data.text"} | dict.fromkeys([data.label] if isinstance(data.label, str) else data.label, "data.label")
    return columns | ({data.text_pair: "data.text_pair"} if data.text_pair else {})


def _prompt_fields(prompt: str | None) -> list[str]:
    """Columns a prompt names, beside the text."""
    if prompt is None:
        return []
    return [name for _, name, _, _ in string.Formatter().parse(prompt) if name and name != "text"]
