"""The data sets of several tasks, as one.

Enters: a recipe whose task names others, each with its data. Leaves: a `Dataset` whose records carry, by name, what
each task made of the same text. A text that one task tests on is not trained on by another.
"""

from __future__ import annotations

from typing import Any

from luthier.data.prepare import PARTS, Prepared, Record
from luthier.data.split import Part
from luthier.recipe import Resolved
from luthier.recipe.sections import Data
from luthier.registry import TASKS
from luthier.tasks.multitask import Multitask
from luthier.workflow.dataset import Dataset, dataset


def together(resolved: Resolved) -> Dataset:
    """Read, check and split the data of every task. Raises what one of them alone would raise."""
    recipe = resolved.recipe
    found: dict[str, Dataset] = {}
    for name, member in recipe.task.tasks.items():  # type: ignore[attr-defined]
        data = Data.model_validate({**recipe.data.model_dump(exclude_unset=True), **member.data})
        own = recipe.model_copy(update={"data": data, "task": member.options})
        found[name] = dataset(Resolved(own, resolved.folder, resolved.name, {}), stratified=False)
    task = TASKS.load("multitask")(recipe.task, recipe.data, tasks={n: d.task for n, d in found.items()})
    apart = recipe.curriculum.type != "single"  # its streams are the tasks
    return Dataset(task, _merged(task, {n: d.prepared for n, d in found.items()}, apart=apart))


def _merged(task: Multitask, prepared: dict[str, Prepared], *, apart: bool) -> Prepared:
    """One record a text and part, with the tasks' own, or one a task where they stay `apart`; the books of all added up."""
    held = {r.key for p in prepared.values() for part in ("validation", "test") for r in p.parts[part]}  # type: ignore[index]
    parts: dict[Part, list[Record]] = {}
    moved = 0
    for part in PARTS:
        places: dict[tuple[str, str | None], list[Record]] = {}
        records: list[Record] = []
        for name, own in prepared.items():
            for record in own.parts[part]:
                if part == "train" and record.key in held:
                    moved += 1
                    continue
                same = places.setdefault((record.text, record.pair), [])
                free = None if apart else next((r for r in same if name not in r.target), None)
                if free is None:
                    free = Record(record.text, record.pair, {}, record.file, record.line)
                    same.append(free)
                    records.append(free)
                free.target[name] = record
        parts[part] = records
    summary: dict[str, Any] = {"tasks": {n: p.summary for n, p in prepared.items()}}
    for key in ("rows_read", "rows_quarantined", "rows_excluded", "rows_dropped_as_duplicates", "rows_beyond_limit", "duplicates"):
        summary[key] = sum(p.summary[key] for p in prepared.values())
    first = next(iter(prepared.values())).summary
    summary |= {k: first[k] for k in ("quarantine_reasons", "conflicting_duplicates", "train_texts_also_in_test", "characters")}
    summary |= {part: len(records) for part, records in parts.items()}
    summary["labels"] = {part: task.label_counts(records) for part, records in parts.items()}
    summary["left_out_for_another_task"] = moved
    notes = [f"{name}: {note}" for name, p in prepared.items() for note in p.notes]
    if moved:
        notes.append(f"{moved} training rows are left out: another task tests on their texts")
    files = {k: v for p in prepared.values() for k, v in p.files.items()}
    return Prepared(parts, [q for p in prepared.values() for q in p.quarantined], summary, files, notes)
