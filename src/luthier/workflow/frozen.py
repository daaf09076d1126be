"""Whether what a frozen trunk gives is kept, and keeping it.

Enters: the method's wish (`method.trunk`), the loaded model, the task and the plan. Leaves: the `Trunk` whose
output is worth keeping, with notes that say so or why not; and, when training begins, the `Kept` rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from luthier.data.split import Part
from luthier.data.tokens import Tokens, cache_folder
from luthier.errors import ModelError, SpaceError
from luthier.models.adapters.freeze import Freeze
from luthier.models.adapters.method import Method
from luthier.models.batch import BRANCH, PART
from luthier.models.kept import Kept, Precision, bytes_of, keep
from luthier.models.load import Loaded
from luthier.models.trunk import Trunk, find
from luthier.workflow.events import Listener, Note, Stage
from luthier.workflow.plan import Plan

if TYPE_CHECKING:
    from luthier.runs.store import Run
    from luthier.workflow.build import Job

PARTS: tuple[Part, ...] = ("train", "validation")
"""What is read again and again."""


def plan_trunk(method: Method, loaded: Loaded, task: Any, plan: Plan, tokens: Mapping[Part, Tokens]) -> Trunk | None:
    """The trunk to be kept; None where it is computed each time. Says which, and why, in the model's notes.

    Raises ModelError where it is to be kept and cannot be.
    """
    if not isinstance(method, Freeze) or method.options.trunk == "computed":
        return None
    wish, bottom = method.options.trunk, method.bottom(loaded) or 0
    reason = _reason(method, task)
    if not reason and {PART, BRANCH} & {*tokens["train"].table.column_names}:
        reason = "an example holds several texts"
    if not reason and wish == "auto" and plan.total_updates <= plan.updates_per_epoch:
        reason = "each row is seen once"
    found = reason or find(loaded.model, loaded.layout, loaded.head, bottom=bottom)
    if isinstance(found, Trunk):
        size = sum(bytes_of(found, tokens[part], _precision(method, part)) for part in PARTS) / 2**20
        what = "all layers" if found.pooled else f"the {bottom} bottom layers"
        loaded.notes.append(f"{what} are computed once: what they give is kept on disk, {size:,.1f} MiB; they run without dropout")
        return found
    if wish == "kept":
        raise ModelError(f"the frozen layers cannot be kept: {found}", where="method.trunk", remedy="set it to auto or computed")
    if bottom:
        loaded.notes.append(f"the frozen layers are computed in every epoch: {found}")
    return None


def _reason(method: Freeze, task: Any) -> str:
    """Why no model could be kept with this task and these options; empty where one could."""
    if method.options.unfreeze is not None:
        return "they thaw as training goes on"
    return "the task shows its rows otherwise in every epoch" if task.alters else ""


def _precision(method: Freeze, part: Part) -> Precision:
    """What is measured is measured as exactly as it will be after training."""
    return method.options.trunk_precision if part == "train" else "fp32"


def keep_trunk(job: Job, run: Run, *, listener: Listener) -> dict[Part, Kept]:
    """Find or compute what the trunk gives for the rows of training and validation; nothing where it is computed each time.

    Where the disk is too small, and nobody asked for it to be kept, a run computes it each time, then to its end.
    """
    if job.trunk is None or run.facts.get("trunk") == "computed":
        return {}
    assert isinstance(job.method, Freeze), "only frozen layers are kept"
    method, recipe, folder = job.method, job.resolved.recipe, cache_folder().parent / "trunk"
    listener(Stage("trunk", f"{len(job.trunk.layers)} frozen layers"))
    try:
        kept = {
            part: keep(
                job.trunk, job.tokens[part], folder=folder, precision=_precision(method, part), max_tokens=recipe.training.max_tokens
            )
            for part in PARTS
        }
    except SpaceError as error:
        if method.options.trunk == "kept" or run.facts.get("trunk") == "kept":
            raise
        run.record(trunk="computed")
        listener(Note(f"the frozen layers are computed in every epoch after all: {error.fault.message}"))
        return {}
    run.record(trunk="kept")
    if all(k.found for k in kept.values()):
        listener(Note("what the frozen layers give was kept by an earlier run"))
    return kept
