"""The recipe of a run that goes on from a finished one.

Enters: the run, and files of new data if there are some. Leaves: the recipe of the next run: the same task, model and method;
with new data these files in place of the old, the old run under `data.earlier`, and a curriculum that brings its rows back.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.data.rows import FORMATS
from luthier.errors import DataError, Fault, RecipeError
from luthier.recipe import Resolved, load_recipe
from luthier.recipe.limit import EARLIER
from luthier.runs.store import Run
from luthier.workflow.lineage import recipe_of, refuse_changed_data

Files = str | Path | Sequence[str | Path]

REPLAY, RESERVOIR = 0.5, 2000
"""Share of earlier rows in an epoch, and how many of them are kept at most."""
OF_FILES = ("name", "origin", "sample", "validation", "test", "limit", "separator")
"""Fields of `data` that belong to the old files, not to the columns and labels that both have."""


def onward(run: Run, *, data: Files | None, epochs: float | None, replay: float = REPLAY, overrides: Sequence[str] = ()) -> Resolved:
    """The recipe of the run that comes after `run`.

    Raises RunError for changed data, RecipeError where the two cannot be put together, DataError for files that are not there.
    """
    earlier = recipe_of(run)
    raw = earlier.recipe.model_dump(mode="json")
    raw["model"] |= {"name": str(run.model), "revision": None, "from_scratch": None}
    if data is not None:
        raw = _with_new_data(raw, run, data, replay=replay)
    elif epochs is None:
        raise RecipeError([Fault("say how much longer, or name files of new data", "epochs", "such as epochs=3, or data='new.csv'")])
    else:
        refuse_changed_data(run)
    raw["training"] |= {"epochs": "auto" if epochs is None else epochs, "max_steps": None}
    changed = load_recipe(raw, overrides=overrides)
    return Resolved(changed.recipe, earlier.folder, f"{earlier.name}-continued", changed.sources)


def _with_new_data(raw: Mapping[str, Any], run: Run, files: Files, *, replay: float) -> dict[str, Any]:
    """The values of a recipe with new files, and with the run under `data.earlier`."""
    if not 0 <= replay < 1:
        raise RecipeError([Fault(f"a share of {replay}", "replay", "give a number from 0, for no earlier rows, to below 1")])
    paths = [Path(f).expanduser().resolve() for f in ([files] if isinstance(files, (str, Path)) else files)]
    for path in paths:
        if not path.exists():
            raise DataError("no such file", where=str(path), remedy="check the name")
    found = {**raw}
    data, labels = {**raw["data"]}, raw["data"]["label"]
    of_labels = {labels} if isinstance(labels, str) else set(labels)
    data |= {name: False if name == "sample" else None for name in OF_FILES}
    data["only"] = {column: values for column, values in data["only"].items() if column not in of_labels}
    data |= {"train": [str(p) for p in paths], "earlier": str(run.folder), "encoding": "auto"}
    data |= {"format": "auto"} if all(_format_is_told(p) for p in paths) else {}
    found["data"] = data
    task = {**raw["task"]}
    task |= {"kind": str(run.facts["task"]).partition("/")[2]} if task.get("kind") == "auto" else {}
    task |= {"labels": None} if task.get("labels") and not _by_number(run) else {}
    found["task"] = task
    found["curriculum"] = (
        {"type": "replay", "share": replay, "reservoir": RESERVOIR, "selection": "balanced"} if replay else {"type": "single"}
    )
    limits = raw["evaluation"]["fail_if"].items()
    found["evaluation"] = {**raw["evaluation"], "fail_if": {_now(name, run): limit for name, limit in limits}}
    return found


def _format_is_told(path: Path) -> bool:
    """Whether the name of a file says what is in it; of a folder its files' do. A text may hold labelled lines."""
    return path.is_dir() or bool({s.lower() for s in path.suffixes} & (FORMATS.keys() - {".txt"}))


def _by_number(run: Run) -> bool:
    """Whether the run's label cells hold numbers, which mean nothing without the names in task.labels."""
    from luthier.inference.model import read_card

    return bool(read_card(run.model)["state"].get("by_number"))


def _now(probe: str, run: Run) -> str:
    """A limit on what the run before kept is from here on one on what this run keeps."""
    return f"{EARLIER}{run.id}" if probe.startswith(EARLIER) else probe
