"""What the tasks that predict tokens share: the loss, the figures of each row, and their scores.

Enters: batches with labels. Leaves: losses while training, and afterwards for each record how many nats
its graded tokens cost, how many they are, and how many were predicted right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar

from luthier.data.prepare import Record, need_columns
from luthier.data.rows import Row, Rows
from luthier.data.split import Part

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.options import LanguageOptions
    from luthier.tasks.texts import TextScores


def text_fault(value: Any) -> str | None:
    """Why a cell cannot be learned as text; None where it can."""
    if value is None or value == "":
        return "empty text"
    if not isinstance(value, str):
        return "text is not a string"
    if not value.strip():
        return "empty text"
    if any("\ud800" <= c <= "\udfff" for c in value):
        return "text is not valid Unicode"
    return "text holds a NUL character" if "\0" in value else None


class LanguageTask:
    """The part of a task that is the same whatever makes its examples."""

    name: ClassVar[str]
    masked: ClassVar[bool] = False
    writes: ClassVar[bool] = False
    answers: ClassVar[bool] = False
    converses: ClassVar[bool] = False
    alters: ClassVar[bool] = False
    rolls: ClassVar[bool] = False
    """Whether it learns from its own answers, drawn while it trains."""
    baselines: ClassVar[tuple[str, ...]] = ()
    metric = "loss"
    labels: tuple[str, ...] = ()
    fewest_updates, fewest_epochs, most_epochs = 300, 1, 3
    rate, rate_width = 5e-4, 256

    def __init__(self, options: LanguageOptions, data: Data) -> None:
        self.options, self.data = options, data

    @classmethod
    def plan(cls, options: Any, data: Data, rows: dict[Part, Rows]) -> Any:
        """The task, after checking that the columns are there. Raises DataError where one is missing."""
        task = cls(options, data)
        for part in rows.values():
            need_columns(part, task.columns())
        return task

    @property
    def kind(self) -> str:
        """The name under which runs are compared and reported."""
        return self.name

    @property
    def outputs(self) -> int:
        """Figures of each record."""
        return 3

    def columns(self) -> dict[str, str]:
        """The columns that records are made of, each with the recipe path that names it."""
        return {self.data.text: "data.text"}

    def record(self, row: Row) -> Record | str:
        """The row's text, or why it cannot be used."""
        value = row.values.get(self.data.text)
        fault = text_fault(value)
        return fault or Record(str(value), None, None, row.file, row.line)

    def texts(self, values: Mapping[str, Any]) -> str:
        """Why a row has no label to predict."""
        return f"a model for {self.name} gives no labels: use luthier {'generate' if self.writes else 'fill'}"

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """All text that a new tokenizer should know."""
        return [r.text for r in records]

    def stratum(self, record: Record) -> str:
        """Nothing to balance the split by."""
        return "all"

    def fit(self, train: Sequence[Record]) -> None:
        """Nothing is learned from the records before training."""

    def start(self, model: nn.Module) -> None:
        """A language model's head starts as it is."""

    def label_counts(self, records: Sequence[Record]) -> dict[str, int]:
        """There are no labels to count."""
        return {}

    def inferred(self) -> list[tuple[str, Any, str]]:
        """(recipe path, value, reason) of what the rows decided."""
        return []

    def state(self) -> dict[str, Any]:
        """What a saved model needs beside its options."""
        return {}

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """Labels lie in the examples, token by token."""
        return {}

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss function `(model, batch) -> Loss`, weighed by graded tokens."""
        from luthier.models.batch import Loss
        from luthier.models.language import language_loss, masked_loss

        compute, options = masked_loss if self.masked else language_loss, self.options

        def loss(model: nn.Module, batch: Batch) -> Loss:
            total, count = compute(model, batch, layout, smoothing=options.label_smoothing, z_loss=options.z_loss)
            return Loss(total, float(count))

        return loss

    def answer(self, layout: Layout) -> Callable[[nn.Module, Batch], Tensor]:
        """What evaluation asks of each segment: (segments, 3) nats, graded tokens, tokens predicted right."""
        from luthier.models.language import token_figures

        return lambda model, batch: token_figures(model, batch, layout, masked=self.masked)

    def text_scorer(self) -> TextScores | None:
        """The scores of written texts; None where there is nothing to compare them with."""
        return None

    def figures(self, texts: Sequence[str], records: Sequence[Record]) -> NDArray[np.float64]:
        """The figures that the scores of written texts are made of, one line a record."""
        scorer = self.text_scorer()
        assert scorer is not None, "there is something to compare them with"
        return scorer.figures(texts, self.references(records))

    def references(self, records: Sequence[Record]) -> list[list[str]]:
        """What may be written; nothing where a task has no such thing."""
        return [[] for _ in records]

    def text_score_names(self) -> tuple[str, ...]:
        """The names of those scores."""
        scorer = self.text_scorer()
        return ("pseudo_perplexity",) if self.masked else scorer.names if scorer else ()

    def graded_text(self, record: Record) -> str:
        """The text whose bytes the model is charged for."""
        return record.text

    def predictions(self, records: Sequence[Record], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
        """For each record its target, and what its graded tokens cost."""
        return [
            {"target": self.graded_text(r)[:2000], "nats": float(o[0]), "tokens": int(o[1]), "right": int(o[2])}
            for r, o in zip(records, outputs, strict=True)
        ]

    def gold(self, records: Sequence[Record]) -> NDArray[Any]:
        """Bytes of each record's graded text, (n,)."""
        import numpy as np

        return np.array([len(self.graded_text(r).encode()) for r in records], dtype=np.float64)

    def scores(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """Figures over all graded tokens together."""
        nats, tokens, right = outputs.sum(axis=0)
        loss = nats / max(tokens, 1.0)
        found = {"loss": loss, "perplexity": math.exp(min(loss, 700.0)), "token_accuracy": right / max(tokens, 1.0)}
        return found if self.masked else {**found, "bits_per_byte": nats / math.log(2) / max(gold.sum(), 1.0)}

    def row_loss(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Mean loss of each record's tokens, for paired tests."""
        import numpy as np

        return outputs[:, 0] / np.maximum(outputs[:, 1], 1)
