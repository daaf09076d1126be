"""What `auto` becomes: inferred from the data, the model and the machine, with the reason.

Enters: a resolved recipe, the data set, and what is known of the model. Leaves: a `Plan`, and the
reasons in `resolved.sources`, for `explain` and the run's record.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from luthier.errors import Fault, RecipeError
from luthier.recipe import Resolved
from luthier.training.curriculum import Course, course, in_pairs
from luthier.workflow.dataset import LEARNED, Dataset

SLOWEST, SCRATCH_RATE = 1e-5, 2e-3
"""The lowest inferred learning rate, and the one for a model of width 256 that starts at random."""
WIDE = 384
"""From this width on (MiniLM) an adapter's rate has a limit: 4,000 rows of SST-2 with LoRA end at 0.52 at 3e-3, and at 0.86 at 1e-3."""


@dataclass(frozen=True)
class Plan:
    """The figures training needs."""

    epochs: float
    updates_per_epoch: int
    total_updates: int
    learning_rate: float
    max_length: int
    metric: str
    stages: tuple[int, ...] = ()
    """Updates of each stage of a curriculum that has stages."""
    rate_factor: float = 1.0
    """How much higher the learning rate is than that of full fine-tuning, since few weights move."""


def plan(
    resolved: Resolved,
    data: Dataset,
    *,
    streams: Sequence[str],
    hidden_size: int,
    longest_model: int,
    longest_text: int,
    rate_factor: float = 1.0,
    fastest: float = math.inf,
) -> tuple[Plan, Course]:
    """Decide every `auto`.

    Epochs: enough updates for the task, within its fewest and most passes, since few rows need many
    passes. Learning rate: falls with the square of the model's width (classification: 2e-4 at 384, MiniLM,
    5e-5 at 768, BERT base), and is `rate_factor` as high where few weights move, up to `fastest`; a model from nothing learns faster,
    and falls with the width itself.
    """
    training, task = resolved.recipe.training, data.task
    size = training.batch_size * training.gradient_accumulation
    section, learned = resolved.recipe.curriculum, LEARNED if data.earlier is not None else None
    staged = resolved.recipe.staged
    examples = len(streams) if learned is None else len(course(section, streams, epochs=1, seed=training.seed, learned=learned).rows(0))
    pairs = _in_pairs(resolved, task.marks(data.prepared.parts["train"]), size) if hasattr(task, "marks") else None
    if pairs is not None:
        examples = len(pairs(0))
    per_epoch = -(-examples // size) * getattr(task, "repeats", 1)
    passes: int | dict[str, int]
    if training.epochs != "auto":
        epochs = training.epochs
        passes = math.ceil(epochs)
    elif staged:
        counted = Counter(streams)
        passes = {n: _epochs(getattr(task, "tasks", {}).get(n, task), -(-rows // size)) for n, rows in counted.items()}
        epochs = sum(passes[n] * rows for n, rows in counted.items()) / len(streams)
        resolved.infer("training.epochs", passes, f"each stage's rows and outputs, at {size} an update")
    else:
        passes = _epochs(task, per_epoch)
        epochs = float(passes)
        what = f" and {len(task.labels)} outputs" if task.labels else ""
        rows = f"{examples} training {'rows' if task.labels else 'examples'}"
        resolved.infer("training.epochs", epochs, f"{rows}{what}, at {size} an update")
    order = Course(pairs, math.ceil(epochs)) if pairs else course(section, streams, epochs=passes, seed=training.seed, learned=learned)
    stages: tuple[int, ...] = ()
    if order.stages:
        counts = [sum(n for e, n in enumerate(order.updates(size)) if order.stage(e) == s) for s in range(len(order.stages))]
        total, stages = sum(counts), tuple(counts)
        per_epoch = -(-total // order.epochs)
    else:
        total = math.ceil(epochs * per_epoch)
    if training.max_steps is not None:
        total = min(total, training.max_steps)
    rate = _learning_rate(resolved, task, hidden_size=hidden_size, rate_factor=rate_factor, fastest=fastest)
    wanted_length = resolved.recipe.model.max_length
    if wanted_length == "auto":
        length = longest_model
        resolved.infer("model.max_length", length, f"what the model takes; the longest example has {longest_text} tokens")
    else:
        length = wanted_length
    metric = resolved.recipe.evaluation.metric
    if metric == "auto":
        metric = data.task.metric
        resolved.infer("evaluation.metric", metric, f"the task, {data.task.kind}")
    if stages:
        _of_stages(resolved)
    _refuse(resolved, stages, total)
    return Plan(epochs, per_epoch, total, rate.value, length, metric, stages, rate.factor), order


class Rate(NamedTuple):
    """A learning rate, and how much higher it is than that of full fine-tuning."""

    value: float
    factor: float


def _learning_rate(resolved: Resolved, task: Any, *, hidden_size: int, rate_factor: float, fastest: float) -> Rate:
    """The recipe's, or what width, method and task make of it; and how much higher it is for the method."""
    recipe = resolved.recipe
    if recipe.training.learning_rate != "auto":
        return Rate(recipe.training.learning_rate, rate_factor)
    if recipe.model.from_scratch is not None:
        rate, factor = min(SCRATCH_RATE, SCRATCH_RATE * 256 / hidden_size), rate_factor
    else:
        whole = min(task.rate, max(SLOWEST, task.rate * (task.rate_width / hidden_size) ** 2))
        factor = min(rate_factor, fastest / whole) if hidden_size >= WIDE else rate_factor
        rate = factor * whole
    by = f", and the method, {recipe.method.type}" if rate_factor != 1 else ""
    resolved.infer("training.learning_rate", rate, f"the model's width, {hidden_size}{by}")
    return Rate(rate, factor)


def _refuse(resolved: Resolved, stages: Sequence[int], total: int) -> None:
    """Raise RecipeError for a curriculum that could not do what it says."""
    if resolved.recipe.curriculum.mixing == "dynamic" and resolved.recipe.data.earlier is not None:
        raise RecipeError(
            [Fault("earlier and new rows have no losses of their own", "curriculum.mixing", "set it to uniform, or give weights")]
        )
    if resolved.recipe.curriculum.mixing == "dynamic" and resolved.recipe.evaluation.every != "epoch":
        raise RecipeError([Fault("looks at the loss of every epoch", "curriculum.mixing", "set evaluation.every: epoch")])
    if resolved.recipe.training.max_steps is not None and sum(stages) > total:
        raise RecipeError([Fault("would end before the last stage", "training.max_steps", "take it out, or set training.epochs")])


def _epochs(task: Any, per_epoch: int) -> int:
    """Passes over the rows of a task: enough for the updates it needs, within its fewest and most."""
    return int(min(task.most_epochs, max(task.fewest_epochs, math.ceil(task.fewest_updates / per_epoch))))


def _in_pairs(resolved: Resolved, marks: Sequence[int], size: int) -> Callable[[int], list[int]]:
    """The rows of every epoch, those of a class two by two. Raises RecipeError where updates or a curriculum would part them."""
    faults = []
    if size < 4 or size % 2:
        what = f"{size} examples an update cannot hold pairs of several classes"
        faults.append(Fault(what, "training.batch_size", "give an even number from 4"))
    if resolved.recipe.curriculum.type != "single":
        what = "brings rows in an order of its own, and here those of a class come together"
        faults.append(Fault(what, "curriculum.type", "take it out"))
    if faults:
        raise RecipeError(faults)
    return in_pairs(marks, seed=resolved.recipe.training.seed)


def _of_stages(resolved: Resolved) -> None:
    """Decide and refuse what a training in stages does otherwise."""
    if resolved.recipe.training.early_stopping is not None:
        raise RecipeError([Fault("would end before the last stage", "training.early_stopping", "take it out")])
    resolved.infer("evaluation.restore_best", False, "stages end with the weights of the last one")


def _unwatched(resolved: Resolved) -> None:
    """Decide and refuse what a training without validation rows does otherwise."""
    recipe, remedy = resolved.recipe, "give data.validation, or take it out"
    asked = {
        "training.early_stopping": recipe.training.early_stopping is not None,
        "training.schedule": recipe.training.schedule == "plateau",
        "retention": recipe.retention.type == "soup" and getattr(recipe.retention, "weight", None) == "auto",
    }
    faults = [Fault("looks at validation rows, and there are none", path, remedy) for path, wanted in asked.items() if wanted]
    if faults:
        raise RecipeError(faults)
    resolved.infer("evaluation.restore_best", False, "there are no validation rows: the last weights are kept")


def infer_from_data(resolved: Resolved, data: Dataset) -> None:
    """Record what the data alone decided. Raises RecipeError for what cannot be decided without validation rows."""
    if resolved.recipe.data.validation_share == "auto" and not resolved.recipe.data.validation:
        watched = bool(data.prepared.parts["validation"])
        because = "enough to choose by" if watched else f"the task, {data.task.name}: every row is trained on"
        resolved.infer("data.validation_share", resolved.recipe.data.held_out if watched else 0.0, because)
    if not data.prepared.parts["validation"]:
        _unwatched(resolved)
    for path, value, because in data.task.inferred():
        resolved.infer(path, value, because)
    if resolved.recipe.evaluation.baselines == "auto":
        resolved.infer("evaluation.baselines", list(data.task.baselines), "the task")
    elif wrong := [b for b in resolved.recipe.evaluation.baselines if b not in data.task.baselines]:
        known = ", ".join(data.task.baselines) or "none"
        remedy = f"{data.task.name} has: {known}; set it to auto or []"
        raise RecipeError([Fault(f"{data.task.name} has no baseline {wrong[0]}", "evaluation.baselines", remedy)])
