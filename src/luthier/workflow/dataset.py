"""Recipe to records: the first stage, torch-free, and what `check --no-model` does.

Enters: a resolved recipe. Leaves: a `Dataset`: the task with its label space, the parts of the data
and the faults that would show only after an hour of training.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import PARTS, Prepared, Record, assemble, read_files
from luthier.data.split import Part
from luthier.data.tidy import tidied
from luthier.recipe import Resolved
from luthier.registry import TASKS

if TYPE_CHECKING:
    from luthier.workflow.earlier import Earlier

LEARNED, NEW = "earlier", "new"
"""The streams of a run that goes on with new data."""


@dataclass(frozen=True)
class Dataset:
    """The task, planned on its rows, and the parts."""

    task: Any
    prepared: Prepared
    earlier: Earlier | None = None
    """What an earlier run brings along."""

    def streams(self, owner: Sequence[int]) -> list[str]:
        """The stream of each training example, given the record that each belongs to."""
        if hasattr(self.task, "streams"):
            return list(self.task.streams(len(owner)))
        if self.earlier is None:
            return [self.task.name] * len(owner)
        replayed = {id(r) for r in self.earlier.replayed}
        names = [LEARNED if id(r) in replayed else NEW for r in self.prepared.parts["train"]]
        return [names[i] for i in owner]

    def texts(self, part: Part) -> list[str]:
        """Texts of a part; a pair's texts joined by a line break."""
        records = self.prepared.parts[part]
        return [r.text if r.pair is None else f"{r.text}\n{r.pair}" for r in records]


def dataset(resolved: Resolved, *, stratified: bool = True, models: bool = True) -> Dataset:
    """Read, check and split the data of a recipe; not `stratified`, the same rows fall into the same parts whatever the task.

    Not with `models`, none is asked about training rows: labels are not mended, and no rows made that need one; notes say so.

    Raises DataError or RecipeError for columns, labels, rows or prompts that cannot be used, RunError for an earlier run that
    cannot be read again.
    """
    recipe = resolved.recipe
    if recipe.task.type == "multitask":
        from luthier.workflow.together import together

        return together(resolved, models=models)
    before = None
    if recipe.data.earlier is not None:
        from luthier.workflow.earlier import before as read_before

        before = read_before(resolved)
    rows, hashes = read_files(recipe.data, folder=resolved.folder)
    books = None
    if recipe.data.clean:
        rows, books = tidied(rows, recipe.data)
    planned = TASKS.load(recipe.task.type, where="task.type")
    known = {"earlier": before.task} if before is not None and getattr(planned, "extends", False) else {}
    task = planned.plan(recipe.task, recipe.data, rows, **known)
    section = recipe.data
    unwatched = getattr(task, "unwatched", False) and not section.validation and section.validation_share in ("auto", 0.0)
    needed: Sequence[Part] = PARTS if before is None else ("train",)
    if unwatched:  # few rows: every one is trained on
        section = section.model_copy(update={"validation_share": 0.0})
        needed = [part for part in needed if part != "validation"]
    prepared = assemble(
        rows,
        section,
        record=task.record,
        stratum=task.stratum if stratified else _one,
        groups=getattr(task, "groups", None),
        seed=recipe.training.seed,
        needed=needed,
        chosen=getattr(task, "chosen", None),
        cleaned=books,
    )
    prepared.files = hashes
    earlier = before.join(task, prepared) if before is not None else None
    replayed = {id(r) for r in earlier.replayed} if earlier is not None else None
    if section.mend is not None:
        from luthier.workflow.mended import mended, refuse

        if models:
            mended(task, section.mend, prepared, seed=recipe.training.seed, folder=resolved.folder, leave=replayed)
        else:
            refuse(task)
            prepared.notes.append("labels are mended when a model may be loaded")
    if section.augment:
        from luthier.workflow.grown import grown, refuse_ways, without_models

        refuse_ways(task, section)
        if not models:
            section = without_models(section, prepared.notes)
        grown(task, section, prepared, rows["train"], seed=recipe.training.seed, folder=resolved.folder, leave=replayed or ())
    task.fit(prepared.parts["train"])
    _describe(task, prepared)
    return Dataset(task, prepared, earlier)


def _one(record: Record) -> str:
    return "all"


def _describe(task: Any, prepared: Prepared) -> None:
    """Add label counts and text lengths to the summary, and notes on what stands out."""
    summary = prepared.summary
    summary["labels"] = {part: task.label_counts(records) for part, records in prepared.parts.items()}
    lengths = sorted(len(r.text) for r in prepared.parts["train"])
    summary["characters"] = {"median": lengths[len(lengths) // 2], "longest": lengths[-1]}
    notes = prepared.notes
    notes += task.noticed() if hasattr(task, "noticed") else []
    if summary["rows_quarantined"]:
        reasons = ", ".join(f"{n} {reason}" for reason, n in summary["quarantine_reasons"].items())
        notes.append(f"{summary['rows_quarantined']} rows quarantined: {reasons}")
    if summary["duplicates"]:
        fate = (
            f"{summary['rows_dropped_as_duplicates']} dropped"
            if summary["rows_dropped_as_duplicates"]
            else "kept, on one side of the split"
        )
        other = "under another label" if task.labels else "with another answer"
        notes.append(f"{summary['duplicates']} repeated texts ({fate}); {summary['conflicting_duplicates']} rows repeat a text {other}")
    if summary["train_texts_also_in_test"]:
        notes.append(f"{summary['train_texts_also_in_test']} training texts stand in the test file too: its scores are flattered")
    counts = summary["labels"]["train"] if task.labels else {}
    rare = [label for label, n in counts.items() if n < 8]
    if rare:
        notes.append(f"fewer than 8 training rows for {len(rare)} of {len(counts)} labels, among them {rare[0]!r}")
    if counts and max(counts.values()) > 10 * max(1, min(counts.values())) and not getattr(task, "class_weights", True):
        notes.append("classes differ more than tenfold in size; task.class_weights: balanced may help")
