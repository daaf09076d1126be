"""Many sets of instructions, or of texts, in one model that writes: tasks of one type that share the vocabulary's head.

Enters: records that are each one task's own. Leaves, along the data path, what that task makes of them: its examples in
one stream with the others', its figures and its written answers under its name. What the tasks do one by one (prompts,
answers and their length, scores) each does as it is written; what they can only do together must be the same for all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.data.rows import Row
from luthier.data.tokens import Encoded, assemble_tokens
from luthier.errors import Fault, RecipeError
from luthier.tasks.multitask import Multitask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.multitask import MultitaskOptions

TOGETHER = {
    "label_smoothing": "they share one loss",
    "z_loss": "they share one loss",
    "mask_share": "texts are masked in one stream",
    "whole_word": "texts are masked in one stream",
    "template": "a model has one template",
}
"""Options that are the same for all, and why."""
TASK = "task"
"""The column that says which task a row of another file is of, and the key that says so in predictions."""
CHOICE_WORDS, CHOICE_SHARE, DIFFERENT = 5, 0.9, 0.1
"""Answers are choices where so large a share has at most so many words, or where so few of them are different."""
PERCENT = ("bleu", "chrf")
"""Scores from 0 to 100; in the mean of several they count from 0 to 1, as the others do."""


class Shared(Multitask):
    """Tasks that share the vocabulary's head."""

    metric = "loss"
    outputs = 3

    def __init__(self, options: MultitaskOptions, data: Data, *, tasks: Mapping[str, Any]) -> None:
        """Raises RecipeError for options that can only be the same for all, and are not."""
        super().__init__(options, data, tasks=tasks)
        self._refuse_differences()
        first = self._any
        self.writes, self.answers, self.converses, self.masked = first.writes, first.answers, first.converses, first.masked
        self.alters: bool = first.alters
        self.baselines = first.baselines
        self.encoded: dict[str, Encoded] = {}
        """Each task's own examples, as long as the training part is what was laid out last."""

    def _refuse_differences(self) -> None:
        own = {n: m.options for n, m in self.options.tasks.items()}
        faults = []
        for field, why in TOGETHER.items():
            values = {n: getattr(o, field) for n, o in own.items() if field in type(o).model_fields}
            first = next(iter(values), "")
            odd = next((n for n in values if values[n] != values[first]), None)
            if odd is not None:
                said = f"{values[odd]!r}, and {values[first]!r} for {first}: {why}"
                faults.append(Fault(f"is {said}", f"task.tasks.{odd}.{field}", "give every task the same"))
        if self.options.weighing == "uncertainty":
            faults.append(Fault("is for tasks with heads of their own", "task.weighing", "set it to fixed, and give each task a weight"))
        begun = next((n for n, o in own.items() if getattr(o, "prompts", None)), None)
        if begun is not None:
            where = f"task.tasks.{begun}.prompts"
            faults.append(Fault("are for a task alone", where, "take them out: the first words of its texts are continued"))
        if faults:
            raise RecipeError(faults)

    @property
    def _any(self) -> Any:
        """Any of the tasks, for what is the same for all: their type, and the options in TOGETHER."""
        return next(iter(self.tasks.values()))

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    def record(self, row: Row) -> Record | str:
        """What the task that the row names makes of it, or why it cannot be used."""
        name = row.values.get(TASK)
        if not isinstance(name, str) or name not in self.tasks:
            return f"its column {TASK!r} has to name one of {', '.join(self.tasks)}, and holds {name!r}"
        found = self.tasks[name].record(row)
        return found if isinstance(found, str) else Record(found.text, found.pair, {name: found}, row.file, row.line)

    def texts(self, values: Mapping[str, Any]) -> Any:
        """Why a row has no label to predict."""
        return self._any.texts(values)

    def source(self, values: Mapping[str, Any]) -> tuple[str] | str:
        """What the model reads for a row, where all tasks put the same around it; else why that cannot be told."""
        asked = [(o.prompt, o.separator) for o in (t.options for t in self.tasks.values())]
        if any(a != asked[0] for a in asked) or len({t.data.text for t in self.tasks.values()}) > 1:
            return f"the tasks {', '.join(self.tasks)} ask in ways of their own, and a text does not say which is meant"
        found: tuple[str] | str = self._any.source(values)
        return found

    def prompt_ids(self, texts: Sequence[str], tokenizer: Any, *, config: Any, max_length: int) -> list[list[int]]:
        """What a model is given for sources that carry their prompt already."""
        found: list[list[int]] = self._any.prompt_ids(texts, tokenizer, config=config, max_length=max_length)
        return found

    def _main(self, task: Any, train: Sequence[Record]) -> str:
        """Exact match where answers are choices, chrF for longer ones."""
        if self.masked or not task.answers:
            return str(task.metric)
        answers = [gold for several in task.references(train) for gold in several[:1]]
        short = sum(len(a.split()) <= CHOICE_WORDS for a in answers)
        chosen = short >= CHOICE_SHARE * len(answers) or len(set(answers)) <= DIFFERENT * len(answers)
        return "exact_match" if chosen else "chrf"

    def _names(self, task: Any, train: Sequence[Record]) -> list[str]:
        return list(task.text_score_names()) if task.answers else super()._names(task, train)

    def inferred(self) -> list[tuple[str, Any, str]]:
        """(recipe path, value, reason) of what the rows decided."""
        why = {"exact_match": "its answers are choices", "chrf": "its answers are texts"}
        given = {n for n, m in self.options.tasks.items() if m.metric is not None}
        return super().inferred() + [
            (f"task.tasks.{n}.metric", main, why[main]) for n, main in self.mains.items() if n not in given and main in why
        ]

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def head(self, config: Any) -> Head:
        """The one that all of them have."""
        found: Head = self._any.head(config)
        return found

    def start(self, model: nn.Module) -> None:
        """A language model's head starts as it is."""

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Every task's examples, in the order of the records."""
        laid: list[tuple[int, str, Mapping[str, Any]]] = []
        rejected: dict[int, str] = {}
        counts: dict[str, int] = {}
        truncated = 0
        self.encoded = {}
        for name, task in self.tasks.items():
            rows = self.places(name, records)
            if not rows:
                continue
            encoded = task.encode(self.own(name, records), tokenizer, config=config, max_length=max_length, cache=cache, train=train)
            if train:
                self.encoded[name] = encoded
            truncated += encoded.tokens.truncated
            for kind, n in encoded.counts.items():
                counts[kind] = counts.get(kind, 0) + n
            rejected |= {rows[place]: f"{name}: {reason}" for place, reason in encoded.rejected.items()}
            kept = [row for place, row in enumerate(rows) if place not in encoded.rejected]
            owner = encoded.tokens.owner
            laid += [(kept[i if owner is None else int(owner[i])], name, e) for i, e in enumerate(encoded.tokens.examples())]
        laid.sort(key=lambda one: one[0])
        tokens = assemble_tokens([e for _, _, e in laid], truncated=truncated, owner=[row for row, _, _ in laid])
        encoded = Encoded(tokens, rejected, counts)
        self._lay(records, encoded, [n for _, n, _ in laid], train=train)
        return encoded

    def alter(self, example: Mapping[str, Any], draw: Any) -> Mapping[str, Any]:
        """What an epoch shows of an example, where tasks hide words."""
        found: Mapping[str, Any] = self._any.alter(example, draw)
        return found

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """The number of each example's task."""
        import torch

        numbers = {name: number for number, name in enumerate(self.tasks)}
        return {TASK: torch.tensor([numbers[n] for n in self._owners(records)[1]])}

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss of all graded tokens alike, each as often as its task's weight says; `NAME.share` is its task's part in that."""
        import torch

        from luthier.models.batch import UNGRADED, Loss
        from luthier.models.language import language_loss, masked_loss

        compute, options = masked_loss if self.masked else language_loss, self._any.options
        weights = [m.weight for m in self.options.tasks.values()]

        def loss(model: nn.Module, batch: Batch) -> Loss:
            assert batch.labels is not None, "the batch has labels"
            task = batch.targets[TASK][batch.segments.owner]
            graded = batch.labels != UNGRADED
            counts = torch.bincount(task[graded], minlength=len(weights)).double().cpu() * torch.tensor(weights, dtype=torch.float64)
            each = None if len(set(weights)) == 1 else torch.tensor(weights, device=task.device)[task]
            total, count = compute(model, batch, layout, smoothing=options.label_smoothing, z_loss=options.z_loss, weights=each)
            if each is None:
                total, count = total * weights[0], count * weights[0]
            shares = {f"{n}.share": share for n, share in zip(self.tasks, counts.tolist(), strict=True) if share}
            return Loss(total, float(count), shares)

        return loss

    def answer(self, layout: Layout) -> Any:
        """What evaluation asks of each segment."""
        return self._any.answer(layout)

    # ── outputs to predictions and scores ──────────────────────────────────────────────────────

    def said(self, outputs: NDArray[np.float64]) -> dict[str, NDArray[np.float64]]:
        """All tasks have the same figures."""
        return dict.fromkeys(self.tasks, outputs)

    def scores(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """Every task's own scores under its name, and the loss as training has it."""
        found: dict[str, float] = {}
        nats = tokens = 0.0
        for name, (rows, own, figures) in self._parts(gold, outputs).items():
            if not len(rows):
                continue
            found |= {f"{name}.{n}": v for n, v in self.tasks[name].scores(own, figures).items()}
            weight = self.options.tasks[name].weight
            nats, tokens = nats + weight * float(figures[:, 0].sum()), tokens + weight * float(figures[:, 1].sum())
        return {"loss": nats / max(tokens, 1e-9)} | found

    def mean(self, scores: Mapping[str, float]) -> dict[str, float]:
        """The mean of the tasks' main scores, from 0 to 1, where every task's answers have been scored."""
        if not self.answers or any(f"{n}.{m}" not in scores for n, m in self.mains.items()):
            return {}
        each = [scores[f"{n}.{m}"] / (100 if m in PERCENT else 1) for n, m in self.mains.items()]
        return {"mean": sum(each) / len(each)}

    def text_score_names(self) -> tuple[str, ...]:
        """The names of the scores of texts."""
        names = [f"{n}.{score}" for n, t in self.tasks.items() for score in t.text_score_names()]
        return (*(["mean"] if names and self.answers else []), *names)

    def predictions(self, records: Sequence[Record], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
        """For each record its task, its target, and what its graded tokens cost."""
        found: list[dict[str, Any]] = [{} for _ in records]
        for name, task in self.tasks.items():
            rows = self.places(name, records)
            for row, one in zip(rows, task.predictions(self.own(name, records), outputs[rows]), strict=True):
                found[row] = {TASK: name, **one}
        return found

    def questions(self, records: Sequence[Record]) -> list[str]:
        """What each record asks."""
        found = [""] * len(records)
        for name, task in self.tasks.items():
            for row, asked in zip(self.places(name, records), task.questions(self.own(name, records)), strict=True):
                found[row] = asked
        return found
