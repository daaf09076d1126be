"""Where a run comes from: the run whose model it starts from, the recipe it was made by, the data it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from luthier.data.prepare import Record
from luthier.errors import LuthierError, RecipeError, RunError
from luthier.models.source import NAMES
from luthier.recipe import Resolved, load_recipe
from luthier.recipe.sections import Model
from luthier.runs.store import Run
from luthier.security.artifacts import sha256
from luthier.workflow.dataset import Dataset, dataset


def origin_of(model: Model, *, folder: Path) -> Run | None:
    """The run that a model's name means: its folder, or its model's. None for any other model."""
    if model.from_scratch is not None or model.name in NAMES:
        return None
    for base in (folder, Path.cwd()):
        path = (base / Path(model.name).expanduser()).resolve()
        for candidate in (path, path.parent) if path.name == "model" else (path,):
            if (candidate / "run.json").is_file():
                return Run(candidate)
        if path.is_dir():
            return None
    return None


def name_its_model(resolved: Resolved) -> Run | None:
    """The run that training starts from, if it does; a recipe that names its folder names its model from here on.

    Raises RunError for one without a model.
    """
    run = origin_of(resolved.recipe.model, folder=resolved.folder)
    if run is None:
        return None
    if not run.model.is_dir():
        raise RunError("has no model yet", where=str(run.folder), remedy=f"luthier resume {run.folder}")
    if Path(resolved.recipe.model.name).name != run.model.name:
        resolved.recipe.model.name = str(run.model)
    return run


class Tested(NamedTuple):
    """The test rows of an earlier run, and the task that reads them."""

    task: Any
    records: list[Record]


def tested(run: Run, data: Dataset) -> Tested | str:
    """What the earlier run was tested on, less the rows that are trained on now; or why that cannot be asked again.

    They are asked as this run's task asks: where it has more labels, among all of them.
    """
    task = data.task
    if data.earlier is not None and data.earlier.run == run:
        return Tested(task, data.earlier.tested) if data.earlier.tested else "its test rows are this run's own"
    learned, learns = run.facts["task"], f"{task.name}/{task.kind}"
    if learned != learns:
        return f"it learned {learned}, and this one learns {learns}"
    try:
        refuse_changed_data(run)
        earlier = dataset(recipe_of(run), models=False)
    except LuthierError as error:
        return str(error.fault.message) if not isinstance(error, RecipeError) else str(error)
    if getattr(task, "tasks", None) and what_is_learned(earlier.task) != what_is_learned(task):
        return "it has other tasks, or other labels"
    if earlier.task.labels != task.labels and not (task.labels and set(earlier.task.labels) <= set(task.labels)):
        return "it has other labels"
    records: Sequence[Record] = [_under(r, earlier.task.labels, task.labels) for r in earlier.prepared.parts["test"]]
    own, seen = ({r.key for r in data.prepared.parts[part]} for part in ("test", "train"))
    if all(r.key in own for r in records):
        return "its test rows are this run's own"
    left = [r for r in records if r.key not in seen]
    return Tested(task if task.labels else earlier.task, left) if left else "all of them are trained on now"


def what_is_learned(task: Any) -> tuple[Any, ...]:
    """A task's kind and labels, and of several tasks each one's."""
    return task.kind, tuple(task.labels), [(n, what_is_learned(t)) for n, t in getattr(task, "tasks", {}).items()]


def _under(record: Record, labels: Sequence[str], others: Sequence[str]) -> Record:
    """A record whose target names labels by their places, with their places among others."""
    if tuple(labels) == tuple(others):
        return record
    place = {i: others.index(label) for i, label in enumerate(labels)}
    target = record.target
    moved = place[target] if isinstance(target, int) else tuple(place.get(n, n) for n in target)
    return replace(record, target=moved)


def recipe_of(run: Run) -> Resolved:
    """The recipe a run was made by, with its paths where they were and its base model at the same commit."""
    facts = run.facts
    try:
        raw = yaml.safe_load((run.folder / "recipe.yaml").read_text(encoding="utf-8"))
        loaded = load_recipe(raw)
    except (OSError, ValueError, yaml.YAMLError, RecipeError) as error:
        raise RunError(f"recipe.yaml cannot be read: {error}", where=str(run.folder)) from None
    if facts["base"].get("revision"):
        loaded.recipe.model.revision = facts["base"]["revision"]
    return Resolved(loaded.recipe, Path(facts["recipe_folder"]), facts["name"], dict.fromkeys(loaded.sources, f"run {run.id}"))


def refuse_changed_data(run: Run) -> None:
    """Raise RunError when a data file of the run is gone or not what it was."""
    for name, digest in run.facts["data"]["files"].items():
        path = Path(name)
        if not path.is_file() or sha256(path) != digest:
            what = "has changed since the run began" if path.is_file() else "is gone"
            raise RunError(f"{name} {what}", where=str(run.folder), remedy="put it back, or train a new run")
