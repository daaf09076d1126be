"""Few-shot classification: one label for a text, learned from a handful of examples of each.

Enters: rows, as in classification. Leaves, along the data path: what classification gives, but for the way of learning.
The trunk learns by contrast, the texts of a class being drawn together and all others apart, and the head is fitted to
what the trunk gives: a logistic regression, computed and not trained (SetFit, Tunstall et al. 2022; its pairs are all
pairs of a batch here, Khosla et al. 2020). With a few rows a class that is better than training both by the labels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.data.rows import Rows
from luthier.data.split import Part, drawn_first
from luthier.data.tokens import Tokens
from luthier.errors import DataError, Fault, RecipeError
from luthier.tasks.classification import PROBLEM_TYPES, Classification
from luthier.tasks.embedding import passes_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data, Training
    from luthier.recipe.tasks.few_shot import FewShotOptions

MANY = 64
"""Rows a class from which on training head and trunk by the labels is the better way."""


class FewShot(Classification):
    """The task, with the label space that the training rows gave it, and the hidden states that its head reads."""

    name = "few_shot"
    unwatched = True
    """Every row is trained on where no validation file is given."""
    fewest_epochs, most_epochs = 4, 40
    rate, rate_width = 3e-5, 384
    options: FewShotOptions  # type: ignore[assignment]

    def __init__(
        self, options: FewShotOptions, data: Data, *, kind: Any, labels: Sequence[str], by_number: bool = False, pooling: str = ""
    ) -> None:
        super().__init__(options, data, kind=kind, labels=labels, by_number=by_number)  # type: ignore[arg-type]
        self.pooling = pooling if options.pooling == "auto" else options.pooling
        self._counts: dict[str, int] = {}

    @classmethod
    def plan(cls, options: Any, data: Data, rows: dict[Part, Rows], *, earlier: Classification | None = None) -> FewShot:
        """Find the labels in the training rows. Raises DataError as classification does, and for several labels a text, or numbers."""
        task = super().plan(options, data, rows, earlier=earlier)
        if task.kind != "single_label":
            what = {"multi_label": "several labels for a text", "regression": "numbers"}[task.kind]
            raise DataError(
                f"few_shot is for one label a text, and these are {what}: texts are alike or not by their one class",
                where="data.label",
                remedy="set task: classification",
            )
        assert isinstance(task, FewShot), "the class makes its own"
        return task

    def fit(self, train: Sequence[Record]) -> None:
        """Count the rows of each class. Raises DataError where there is one class only."""
        super().fit(train)
        self._counts = self.label_counts(train)

    def noticed(self) -> list[str]:
        """What is to be known of the rows: classes that are too small to be drawn together, or large enough for another way."""
        alone = [label for label, n in self._counts.items() if n == 1]
        many = [label for label, n in self._counts.items() if n > MANY]
        found = []
        if alone:
            found.append(f"{len(alone)} labels have one row, among them {alone[0]!r}: each is paired with itself, under another dropout")
        if many:
            found.append(
                f"{len(many)} labels have more than {MANY} rows, among them {many[0]!r}: task: classification may learn more from them"
            )
        return found

    def chosen(self, train: Sequence[Record], seed: int) -> list[int]:
        """The rows to train on: of each class `shots`, in the order of the file. The draw depends on the seed and the texts alone."""
        if self.options.shots is None:
            return list(range(len(train)))
        by_class: dict[str, list[int]] = {}
        for place, record in enumerate(train):
            by_class.setdefault(self.stratum(record), []).append(place)
        keys = [r.key for r in train]
        return sorted(p for places in by_class.values() for p in drawn_first(places, keys, seed)[: self.options.shots])

    def marks(self, train: Sequence[Record]) -> list[int]:
        """The class of each record: those of one class come two by two in a batch."""
        return [r.target for r in train]

    def cautions(self, tokens: Tokens, options: Training) -> list[str]:
        """What is to be known before training: which states the head reads, and updates that do not fit in one pass."""
        what = {"own": "what the architecture's own head reads", "mean": "the mean of the hidden states"}
        read = what.get(self.pooling, f"the {self.pooling} hidden state")
        return [
            f"texts are compared by {read}; the head is fitted to the training rows when they have been drawn together",
            *passes_of(tokens, options),
        ]

    @property
    def fewest_updates(self) -> int:
        """Updates that training should have at least."""
        return 80

    def inferred(self) -> list[tuple[str, Any, str]]:
        """(recipe path, value, reason) of what the rows decided."""
        return [i for i in super().inferred() if i[0] != "task.kind"]

    def head(self, config: Any) -> Head:
        """A linear head, on the states that the pooling names."""
        from luthier.models.config import is_decoder
        from luthier.models.heads import Head
        from luthier.models.vectors import pooling_of

        if not self.pooling:
            self.pooling = "own" if config.is_encoder_decoder or is_decoder(config) else pooling_of(config)
        pooling: Any = None if self.pooling == "own" else self.pooling
        return Head("classes", self.outputs, self.labels, PROBLEM_TYPES[self.kind], pooling=pooling)

    def state(self) -> dict[str, Any]:
        """What a saved model needs to predict again."""
        return super().state() | {"pooling": self.pooling}

    def files(self, config: Any, max_length: int) -> Mapping[str, Any]:
        """What lies beside the model, by name: how its states are pooled, as sentence-transformers reads it."""
        from luthier.models.vectors import modules

        return {} if self.pooling == "own" else modules(config, pooling=self.pooling, normalize=True, max_length=max_length)

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss function `(model, batch) -> Loss`, weighed by texts: how far each is from finding its class among the batch.

        The function raises RecipeError where nothing below the head moves, so that nothing could be learned.
        """
        from luthier.models.batch import Loss
        from luthier.models.contrast import of_classes

        temperature, features = self.options.temperature, self.features(layout)

        def contrast(model: nn.Module, batch: Batch) -> Loss:
            found = features(model, batch)
            if model.training and not found.requires_grad:
                fault = Fault("few_shot trains what is below the head, and nothing of it moves", "method", "set method: full or lora")
                raise RecipeError([fault])
            nats = of_classes(found.float(), batch.targets["labels"], temperature=temperature)
            return Loss(nats.sum(), float(len(nats)))

        return contrast

    def features(self, layout: Layout) -> Callable[[nn.Module, Batch], Tensor]:
        """What the head's last layer is given for each text, (segments, width)."""
        from luthier.models.forward import pooled_logits
        from luthier.models.linear import inputs_of, last_linear

        def given(model: nn.Module, batch: Batch) -> Tensor:
            with inputs_of(last_linear(model, self.outputs)) as seen:
                pooled_logits(model, batch, layout)
            return seen[-1].reshape(batch.segments.count, -1)

        return given

    def settle(self, model: nn.Module, features: NDArray[np.float64], gold: NDArray[Any]) -> None:
        """Fit the head to the features of the training rows, (n, width), and their classes, (n,)."""
        from luthier.models.linear import fit_classes, last_linear

        fit_classes(last_linear(model, self.outputs), features, gold, strength=self.options.strength)
