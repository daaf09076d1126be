"""The data sets of several tasks, as one.

Enters: a recipe whose task names others, each with its data. Leaves: a `Dataset` whose records carry, by name, what
each task made of the same text. A text, or a group of rows, that one task tests on is not trained on by another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from luthier.data.prepare import PARTS, Prepared, Record
from luthier.data.split import Part
from luthier.errors import Fault, RecipeError
from luthier.recipe import Resolved
from luthier.recipe.tasks.multitask import MultitaskOptions
from luthier.registry import TASKS
from luthier.tasks.multitask import Multitask, data_of, share_a_head
from luthier.workflow.dataset import Dataset, dataset

WHOLE = ("accept",)
"""Fields of the data section that are looked at for all tasks together."""


def together(resolved: Resolved, *, models: bool = True) -> Dataset:
    """Read, check and split the data of every task, with `models` as `dataset` has it. Raises what one of them alone would raise."""
    recipe = resolved.recipe
    assert isinstance(recipe.task, MultitaskOptions), "several tasks"
    apart = share_a_head(recipe.task) or recipe.curriculum.type != "single"  # texts are one task's; streams are the tasks
    found: dict[str, Dataset] = {}
    for name, member in recipe.task.tasks.items():
        if wrong := next((field for field in WHOLE if field in member.data), None):
            where = f"task.tasks.{name}.data.{wrong}"
            raise RecipeError([Fault("is for all tasks together", where, f"write it in the recipe's own data section: data.{wrong}")])
        own = recipe.model_copy(update={"data": data_of(recipe.data, member), "task": member.options})
        if own.data.earlier is not None:
            fault = Fault("a run of several tasks takes no new data", "data.earlier", "train a new run on all the rows together")
            raise RecipeError([fault])
        found[name] = dataset(Resolved(own, resolved.folder, resolved.name, {}), stratified=False, models=models)
    task: Multitask = TASKS.load("multitask")(recipe.task, recipe.data, tasks={n: d.task for n, d in found.items()})
    prepared = _merged(task, {n: d.prepared for n, d in found.items()}, apart=apart)
    task.fit(prepared.parts["train"])
    return Dataset(task, prepared)


def _merged(task: Multitask, prepared: Mapping[str, Prepared], *, apart: bool) -> Prepared:
    """One record a text and part, with the tasks' own, or one a task where they stay `apart`; the books of all added up."""
    away = [r for p in prepared.values() for part in ("validation", "test") for r in p.parts[part]]  # type: ignore[index]
    held, groups = {r.key for r in away}, {r.group for r in away if r.group}
    parts: dict[Part, list[Record]] = {}
    moved = 0
    for part in PARTS:
        places: dict[tuple[str, str | None], list[Record]] = {}
        records: list[Record] = []
        for name, own in prepared.items():
            for record in own.parts[part]:
                if part == "train" and (record.key in held or record.group in groups):
                    moved += 1
                    continue
                same = places.setdefault((record.text, record.pair), [])
                free = None if apart else next((r for r in same if name not in r.target), None)
                if free is None:
                    free = Record(record.text, record.pair, {}, record.file, record.line, group=record.group)
                    same.append(free)
                    records.append(free)
                free.target[name] = record
        parts[part] = records
    if empty := next((n for n in prepared if not any(n in r.target for r in parts["train"])), None):
        reason = "none of its training rows is left: other tasks test on their texts or groups"
        raise RecipeError([Fault(reason, f"task.tasks.{empty}.data", "give it other rows, or a smaller test_share")])
    summary: dict[str, Any] = {"tasks": {n: p.summary for n, p in prepared.items()}}
    for key in (
        "rows_read",
        "rows_quarantined",
        "rows_excluded",
        "rows_dropped_by_cleaning",
        "rows_dropped_as_duplicates",
        "rows_beyond_limit",
        "duplicates",
    ):
        summary[key] = sum(p.summary[key] for p in prepared.values())
    summary["quarantine_reasons"] = dict(sum((Counter(p.summary["quarantine_reasons"]) for p in prepared.values()), Counter()))
    summary["conflicting_duplicates"] = sum(p.summary["conflicting_duplicates"] for p in prepared.values())
    summary["train_texts_also_in_test"] = 0  # those have been left out
    lengths = sorted(len(r.text) for r in parts["train"])
    summary["characters"] = {"median": lengths[len(lengths) // 2], "longest": lengths[-1]}
    summary |= {part: len(records) for part, records in parts.items()}
    summary["labels"] = {part: task.label_counts(records) for part, records in parts.items()}
    summary["left_out_for_another_task"] = moved
    notes = [f"{name}: {note}" for name, p in prepared.items() for note in p.notes]
    if moved:
        notes.append(f"{moved} training rows are left out: another task tests on their texts or groups")
    files = {k: v for p in prepared.values() for k, v in p.files.items()}
    made = [m for p in prepared.values() for m in p.made]
    if made:
        summary["rows_made"] = len(made)
    mended = [f for p in prepared.values() for f in p.mended]
    if mended:
        summary["rows_mended"] = len(mended)
        summary["rows_dropped_by_mending"] = sum(f.outcome == "dropped" for f in mended)
    return Prepared(parts, [q for p in prepared.values() for q in p.quarantined], summary, files, notes, made, mended)
