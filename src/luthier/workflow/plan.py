"""What `auto` becomes: inferred from the data, the model and the machine, with the reason.

Enters: a resolved recipe, the data set, and what is known of the model. Leaves: a `Plan`, and the
reasons in `resolved.sources`, for `explain` and the run's record.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from luthier.recipe import Resolved
from luthier.workflow.dataset import Dataset

UPDATES, UPDATES_PER_OUTPUT = 100, 25
FEWEST_EPOCHS, MOST_EPOCHS = 3, 20
WIDTH, RATE = 384, 2e-4


@dataclass(frozen=True)
class Plan:
    """The figures training needs."""

    epochs: float
    updates_per_epoch: int
    total_updates: int
    learning_rate: float
    max_length: int
    metric: str


def plan(resolved: Resolved, data: Dataset, *, hidden_size: int, longest_model: int, longest_text: int) -> Plan:
    """Decide every `auto`.

    Epochs: enough updates for the number of outputs, within 3 to 20 passes, since few rows need many
    passes. Learning rate: falls with the square of the model's width, 2e-4 at 384 (MiniLM), 5e-5 at
    768 (BERT base).
    """
    training = resolved.recipe.training
    rows, outputs = len(data.prepared.parts["train"]), data.task.outputs
    size = training.batch_size * training.gradient_accumulation
    per_epoch = -(-rows // size)
    if training.epochs == "auto":
        wanted = UPDATES + UPDATES_PER_OUTPUT * outputs
        epochs = float(min(MOST_EPOCHS, max(FEWEST_EPOCHS, math.ceil(wanted / per_epoch))))
        resolved.infer("training.epochs", epochs, f"{rows} training rows and {outputs} outputs, at {size} rows an update")
    else:
        epochs = training.epochs
    total = math.ceil(epochs * per_epoch)
    if training.max_steps is not None:
        total = min(total, training.max_steps)
    if training.learning_rate == "auto":
        rate = min(RATE, max(1e-5, RATE * (WIDTH / hidden_size) ** 2))
        resolved.infer("training.learning_rate", rate, f"the model's width, {hidden_size}")
    else:
        rate = training.learning_rate
    wanted_length = resolved.recipe.model.max_length
    if wanted_length == "auto":
        length = longest_model
        resolved.infer("model.max_length", length, f"what the model takes; the longest text has {longest_text} tokens")
    else:
        length = wanted_length
    metric = resolved.recipe.evaluation.metric
    if metric == "auto":
        metric = data.task.metric
        resolved.infer("evaluation.metric", metric, f"the task, {data.task.kind}")
    return Plan(epochs, per_epoch, total, rate, length, metric)


def infer_from_data(resolved: Resolved, data: Dataset) -> None:
    """Record what the data alone decided."""
    if resolved.recipe.task.kind == "auto":  # type: ignore[attr-defined]
        resolved.infer("task.kind", data.task.kind, "the label column")
    if resolved.recipe.task.labels is None:  # type: ignore[attr-defined]
        resolved.infer("task.labels", list(data.task.labels), "the training rows")
