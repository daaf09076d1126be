"""New data for an earlier run: its rows beside the new ones, each where it may stand.

Enters: the recipe of a run that goes on, which names the earlier run under `data.earlier`, and the new data in their parts.
Leaves: the parts of both together. Whatever the earlier run had keeps its place: what it was tested on is not trained on
now, and what it was trained on is not tested on. Of its training rows the curriculum takes a reservoir, all, or none.
Torch-free.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from luthier.data.prepare import PARTS, Prepared, Record
from luthier.data.split import Part
from luthier.errors import DataError, Fault, RecipeError, RunError
from luthier.recipe import Resolved
from luthier.runs.store import Run
from luthier.security.artifacts import sha256
from luthier.tasks.labels import look_alikes
from luthier.training.curriculum import reservoir
from luthier.workflow.dataset import LEARNED, Dataset, dataset
from luthier.workflow.grown import refuse_others
from luthier.workflow.lineage import recipe_of, refuse_changed_data

WHERE = "data.earlier"
SHAPING = ("prompt", "system", "scheme", "subtypes", "ignore")
"""Options that are part of a record: rows of the earlier run have its own."""
TOGETHER = {"multitask": "several tasks", "few_shot": "few shots"}
"""Tasks that want all their rows at once, in an order of their own."""
SHOWN = 6


@dataclass(frozen=True)
class Earlier:
    """What an earlier run brings along."""

    run: Run
    trained: list[Record]
    """All rows it was trained on."""
    replayed: list[Record]
    """Those of them that are trained on again."""
    new: list[Record]
    """The new rows that are trained on."""
    tested: list[Record]
    """Those of its test rows that are tested on now."""
    seen: list[Record]
    """All rows that its model was ever trained on, also by runs before it."""


@dataclass(frozen=True)
class Before:
    """An earlier run, its data set, and the recipe that goes on from it."""

    run: Run
    data: Dataset
    resolved: Resolved

    @property
    def task(self) -> Any:
        return self.data.task

    def join(self, task: Any, prepared: Prepared) -> Earlier:
        """Put the earlier run's rows into the parts of the new data. Raises DataError where the two are not of one task."""
        self._refuse_other(task)
        earlier, parts = self.data.prepared, prepared.parts
        given = sum(map(len, parts.values()))
        known, relabelled, left_out = self._settle(parts)
        have = {r.key for p in PARTS for r in parts[p]}
        for part in ("validation", "test"):
            parts[part] += [r for r in earlier.parts[part] if r.key not in have]  # type: ignore[index]
        held = {m for part in ("validation", "test") for r in parts[part] for m in _marks(r)}  # type: ignore[index]
        own = [r for r in parts["train"] if held.isdisjoint(_marks(r))]
        left_out += len(parts["train"]) - len(own)
        if not own:
            raise DataError("no new row is left to train on", where="data.train", remedy="the earlier run was tested on all of them")
        taken = {r.key for r in own}
        replayed = self._replayed([r for r in earlier.parts["train"] if r.key not in taken and held.isdisjoint(_marks(r))])
        parts["train"] = own + replayed
        prepared.files |= earlier.files | {str(self.run.folder / "recipe.yaml"): sha256(self.run.folder / "recipe.yaml")}
        old = {id(r) for r in earlier.parts["test"]}
        found = Earlier(self.run, earlier.parts["train"], replayed, own, [r for r in parts["test"] if id(r) in old], self._seen)
        kept = {id(r) for part in ("validation", "test") for r in earlier.parts[part]}  # type: ignore[index]
        rows = sum(id(r) in kept for part in ("validation", "test") for r in parts[part])  # type: ignore[index]
        prepared.summary["rows_of_earlier"] = len(replayed) + rows
        self._tell(task, prepared, found, known=known, relabelled=relabelled, left_out=left_out)
        if known == given and not relabelled:
            prepared.notes.append("every new row stood in the earlier data, with the same answer: is it the right file?")
        return found

    @property
    def _seen(self) -> list[Record]:
        before = self.data.earlier
        return [*(before.seen if before is not None else ()), *self.data.prepared.parts["train"]]

    def _refuse_other(self, task: Any) -> None:
        """Raise where the two are not of one task, or the new one reads rows in another way."""
        _refuse_kind(f"{self.task.name}/{self.task.kind}", f"{task.name}/{task.kind}")
        for name in SHAPING:
            if getattr(task.options, name, None) != getattr(self.task.options, name, None):
                wanted = getattr(self.task.options, name, None)
                raise RecipeError([Fault(f"rows of the earlier run were made with {wanted!r}", f"task.{name}", "leave it as it was")])
        pairs = [t.data.text_pair for t in (self.task, task)]
        if pairs[0] != pairs[1] and None in pairs:
            raise RecipeError([Fault(f"rows of the earlier run were read with {pairs[0]!r}", "data.text_pair", "leave it as it was")])
        if getattr(self.task, "highest", None) != getattr(task, "highest", None):
            raise DataError(
                f"scores of the earlier run go to {self.task.highest:g}, and the new ones to {task.highest:g}",
                where=WHERE,
                remedy="put the new scores on the scale of the old",
            )
        if task.labels[: len(self.task.labels)] != self.task.labels:
            raise DataError(
                f"a model for {task.name} takes no new labels: that run has {len(self.task.labels)}, and these data {len(task.labels)}",
                where=WHERE,
                remedy="train a new run on all the rows together",
            )

    def _settle(self, parts: dict[Part, list[Record]]) -> tuple[int, int, int]:
        """Put new rows that the earlier run had where it had them; how many were known, had another target, and are left out.

        The same goes for rows of a group that it had. Rows that come from a file of one part's own cannot be moved: they are left
        out where they do not belong.
        """
        homes: dict[str, Part] = {}
        targets: dict[str, set[str]] = {}
        for part in PARTS:
            for record in self._seen if part == "train" else self.data.prepared.parts[part]:
                homes.update(dict.fromkeys(_marks(record), part))
                targets.setdefault(record.key, set()).add(str(record.target))
        fixed = {part for part in PARTS if part != "train" and getattr(self.resolved.recipe.data, part)}
        found: dict[Part, list[Record]] = {part: [] for part in PARTS}
        known = relabelled = left_out = 0
        for part in PARTS:
            for record in parts[part]:
                known += record.key in targets
                relabelled += str(record.target) not in targets.get(record.key, {str(record.target)})
                there = {homes[m] for m in _marks(record) if m in homes} or {part}
                if there == {part}:
                    found[part].append(record)
                elif len(there) > 1 or (there | {part}) & fixed:
                    left_out += 1
                else:
                    found[there.pop()].append(record)
        parts.update(found)
        return known, relabelled, left_out

    def _replayed(self, pool: list[Record]) -> list[Record]:
        """The rows that come back."""
        section, seed = self.resolved.recipe.curriculum, self.resolved.recipe.training.seed
        if section.type == "single":
            return []
        if section.type != "replay":
            return pool
        pools: dict[str, list[int]] = {}
        replayed = {id(r) for r in self.data.earlier.replayed} if self.data.earlier is not None else set()
        for index, record in enumerate(pool):
            name = LEARNED
            if section.selection == "balanced":
                name = self.task.stratum(record)
            elif section.selection == "recent":
                name = "before" if id(record) in replayed else LEARNED
            pools.setdefault(name, []).append(index)
        if section.selection == "recent":
            pools = {LEARNED: pools.get(LEARNED, [])}
        return [pool[i] for i in sorted(reservoir(section, pools, seed=seed, stage=1))]

    def _tell(self, task: Any, prepared: Prepared, found: Earlier, *, known: int, relabelled: int, left_out: int) -> None:
        """Bring summary and notes up to date."""
        summary, notes, parts = prepared.summary, prepared.notes, prepared.parts
        new = len(found.new)
        summary |= {part: len(parts[part]) for part in PARTS}
        summary["rows_left_out_for_earlier"] = left_out
        summary["train_texts_also_in_test"] = 0
        summary["earlier"] = {
            "run": self.run.id, "train": len(found.replayed), "of": len(found.trained), "test": len(found.tested),
            "new_train": new, "known": known, "relabelled": relabelled,
        }  # fmt: skip
        notes.append(
            f"goes on from {self.run.id}: {new} new training rows, and {len(found.replayed)} of the {len(found.trained)} that it was "
            f"trained on come back; tested on {len(parts['test']) - len(found.tested)} new rows and {len(found.tested)} of its own"
        )
        if known:
            notes.append(f"{known} of the new rows stood in the earlier data, {relabelled} of them with another answer: the new ones count")
        if left_out:
            notes.append(f"{left_out} new rows are left out: one run would be tested on what the other was trained on")
        self._tell_labels(task, notes, found)

    def _tell_labels(self, task: Any, notes: list[str], found: Earlier) -> None:
        counts = Counter(task.label_counts(found.new)) if task.labels else Counter()
        before = self.task.label_counts(found.trained) if task.labels else {}
        new, gone = [n for n in counts if counts[n] and n not in before], [n for n in before if not counts[n]]
        if new:
            notes.append(f"new labels, beside {len(before)} of the earlier run: {_listed(new)}")
        if gone:
            notes.append(f"labels of the earlier run without a new row: {_listed(gone)}")
        for label, old in look_alikes(new, list(before)):
            notes.append(f"the new label {label!r} looks like {old!r} of the earlier run: if they are one, write them alike")


def before(resolved: Resolved) -> Before:
    """The run that a recipe names under `data.earlier`, with its data as they were.

    Raises RunError where it is no run or its data have changed, RecipeError for what cannot go on from a run.
    """
    recipe = resolved.recipe
    run = _named(str(recipe.data.earlier), resolved.folder)
    if recipe.curriculum.type == "sequential" or recipe.curriculum.order is not None:
        raise RecipeError([
            Fault("the earlier run was the first stage", "curriculum.type", "choose replay, mixture, progressive or single")
        ])  # fmt: skip
    earlier = recipe_of(run)
    learned, learns = earlier.recipe.task.type, recipe.task.type
    if other := next((n for n in (learned, learns) if n in TOGETHER), None):
        raise RecipeError([Fault(f"a run of {TOGETHER[other]} takes no new data", WHERE, "train a new run on all the rows together")])
    _refuse_kind(learned, learns)
    try:
        refuse_changed_data(run)
    except RunError as error:
        raise RunError(
            f"its data cannot be read again: {error.fault.message}",
            where=str(run.folder),
            remedy=f"put it back; or train a recipe with `model: {run.folder}` on all the rows that you have",
        ) from None
    data = dataset(earlier)
    refuse_others(run.facts["data"]["summary"], data.prepared.summary, where=str(run.folder))
    kind = getattr(recipe.task, "kind", "auto")
    _refuse_kind(f"{learned}/{data.task.kind}", f"{learned}/{data.task.kind if kind == 'auto' else kind}")
    return Before(run, data, resolved)


def _refuse_kind(learned: str, learns: str) -> None:
    if learned != learns:
        raise DataError(
            f"that run learned {learned}, and this one learns {learns}", where=WHERE, remedy="name a run of the same task, or take it out"
        )


def differences(data: Dataset, *, seed: int) -> dict[str, Any] | None:
    """How the new training rows differ from those of the earlier run; None where there is no earlier run."""
    from luthier.data.drift import Side, drift

    if data.earlier is None:
        return None

    def side(records: list[Record]) -> Side:
        texts = [r.text if r.pair is None else f"{r.text}\n{r.pair}" for r in records]
        labels = [[n for n, k in data.task.label_counts([r]).items() for _ in range(k)] for r in records] if data.task.labels else ()
        return Side(texts, labels)

    return drift(side(data.earlier.trained), side(data.earlier.new), seed=seed)


def _marks(record: Record) -> tuple[str, ...]:
    """What keeps a row on one side of the split: its text, and its group where it has one."""
    return (record.key, f"group {record.group}") if record.group else (record.key,)


def _named(name: str, folder: Path) -> Run:
    """The run in a folder, looked for from the recipe's folder and then from the working one."""
    for base in (folder, Path.cwd()):
        path = (base / Path(name).expanduser()).resolve()
        if (path / "run.json").is_file() and (path / "recipe.yaml").is_file():
            return Run(path)
    raise RunError(f"no run in {name}", where=WHERE, remedy="give the folder of a run, as `luthier runs` lists it")


def _listed(names: list[str]) -> str:
    return ", ".join(map(repr, names[:SHOWN])) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
