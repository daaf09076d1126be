"""The way of retention of a recipe, with the rows that it reads itself.

Enters: the `retention` section, and the model with its method in place. Leaves: the way, known to work here, and the
`Start` that it is given when training begins.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.errors import Fault, RecipeError
from luthier.models.adapters.method import Method
from luthier.models.load import Loaded
from luthier.recipe import Resolved
from luthier.registry import RETENTION
from luthier.retention.earlier import Rows
from luthier.retention.retention import Mix, Retention, Start
from luthier.retention.soup import VALIDATION
from luthier.workflow.probes import drawn, laid_out, read_records

if TYPE_CHECKING:
    from luthier.workflow.build import Job

PLAIN = {"label_smoothing": 0.0, "z_loss": 0.0, "class_weights": "none"}
"""Options of tasks under which the loss is the negative log-likelihood."""


def prepare(resolved: Resolved, task: Any, loaded: Loaded, method: Method, *, max_length: int) -> tuple[Retention, Start, dict[str, str]]:
    """The way, its start, and the hashes of its files. Raises ModelError where it does not work, DataError for files without a row."""
    options, training = resolved.recipe.retention, resolved.recipe.training
    way: Retention = RETENTION.load(options.type)(options, seed=training.seed)
    files, layout = getattr(options, "data", None), loaded.layout
    staged = resolved.recipe.staged
    if options.type == "ewc" and not files and not staged:
        raise RecipeError([Fault("needs rows of the earlier task", "retention.data", "name their files")])
    if options.type == "ewc" and hasattr(task, "settle"):
        raise RecipeError([Fault(f"weighs by a head that is trained, and that of {task.name} is fitted", "retention", "choose l2sp")])
    if options.type == "ewc" and loaded.head.trees:
        fault = Fault("weighs by single examples, and answers to one prompt are trees", "retention", "choose distill or l2sp")
        raise RecipeError([fault])
    if options.type == "soup" and staged and method.adapter:
        raise RecipeError(
            [Fault("cannot mix adapters that have learned in an earlier stage", "retention", "set method: full, or choose distill")]
        )
    way.check(Start(loaded, method, task.loss(layout)))
    rows: Rows | None = None
    hashes: dict[str, str] = {}
    if files:
        records, hashes = read_records(files, resolved, task)
        if (most := getattr(options, "rows", None)) is not None:
            records = drawn(records, most, training.seed)
        records, tokens = laid_out(records, task, loaded, max_length=max_length, where="retention.data")
        rows = Rows(tokens, task.targets(records), types=layout.token_types)
    return way, Start(loaded, method, _likelihood(task).loss(layout), rows, training.max_tokens), hashes


def _likelihood(task: Any) -> Any:
    """The task, with the loss that is the negative log-likelihood of its labels."""
    plain = copy.copy(task)
    changes = {name: value for name, value in PLAIN.items() if name in type(task.options).model_fields}
    plain.options = task.options.model_copy(update=changes)
    if "class_weights" in changes:
        plain.class_weights = None
    return plain


def judge(job: Job, validation: float) -> Mapping[str, float]:
    """The losses by which a mix of weights is chosen."""
    return {VALIDATION: validation} | {name: probe.loss() for name, probe in job.probes.items()}


def told(mix: Mix, *, probes: int) -> str:
    """A mix in words."""
    of = f"{mix.weight:g} of the trained weights, {1 - mix.weight:g} of the starting ones"
    if not mix.tried:
        return f"the model is {of}, as asked"
    by = "validation and probes" if probes else "validation alone, for there are no probes"
    return f"the model is {of}: the least loss on {by}"
