"""The training part of a recipe, grown: `data.augment`.

Enters: the parts of a data set and the rows that they were read from. Leaves: the same with the made records at the end of the
training part, what was made from what (`Prepared.made`), and the figures in the summary. The other parts are only looked at, so
that no text of theirs is made.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.augment.augmenter import Source
from luthier.data.augment.grow import Check, Grown, grow
from luthier.data.prepare import Prepared, Record
from luthier.data.rows import Row, Rows
from luthier.data.split import content_key
from luthier.errors import Fault, RecipeError, RunError

if TYPE_CHECKING:
    from luthier.recipe.sections import Data

TASKS = ("classification", "few_shot", "text2text")
"""Tasks whose answer is for the text as a whole, and not for places in it."""
SAMPLES = 3


def refuse_ways(task: Any, data: Data) -> None:
    """Raise RecipeError for a task whose rows cannot be varied, and a way that needs labels where there are none."""
    if task.name not in TASKS:
        remedy = f"it is for {', '.join(TASKS)}: their answer is for the whole text"
        raise RecipeError([Fault(f"rows of the task {task.name} cannot be varied", "data.augment", remedy)])
    faults = []
    for number, section in enumerate(data.augment):
        if task.labels and task.kind != "regression":
            continue
        needs = [n for n, given in (("classes", section.classes), ("check", section.check)) if given is not None]
        needs += ["type"] if section.type == "mixing" else []
        faults += [Fault(f"needs labels, and {task.name} has none", f"data.augment[{number}].{n}", "take it out") for n in needs]
    if faults:
        raise RecipeError(faults)


def without_models(data: Data, notes: list[str]) -> Data:
    """The section without the ways that ask a model; the notes say so."""
    asking = [way for way in data.augment if way.needs_model or way.check is not None]
    notes += [f"rows of {way.type} are made when a model may be loaded" for way in asking]
    return data.model_copy(update={"augment": [way for way in data.augment if way not in asking]})


def grown(task: Any, data: Data, prepared: Prepared, rows: Rows, *, seed: int, folder: Path, leave: Collection[int] = ()) -> None:
    """Put the made records into the training part. Records whose `id` is among `leave` are not varied.

    Raises DataError, RunError or EndpointError for a way that cannot be had.
    """
    train = prepared.parts["train"]
    records = [(r, row) for r, row in _with_rows(train, rows, task) if id(r) not in leave]
    pool = [Source(str(row.values[data.text]), _label(task, r), row) for r, row in records]
    held = {key for part in ("validation", "test") for r in prepared.parts[part] for key in (r.key, content_key(r.text))}

    def fault(row: Row) -> str | None:
        found = task.record(row)
        if isinstance(found, str):
            return found
        return "stands in validation or test" if found.key in held else None

    found = grow(pool, data.augment, text=data.text, held=held, fault=fault, check=classifier(folder), seed=seed, folder=folder)
    sources = [records[m.source][0] for m in found.made]
    train += [replace(task.record(m.row), group=s.group, target=s.target) for m, s in zip(found.made, sources, strict=True)]
    prepared.made += found.made
    _enter(prepared, found)


def classifier(folder: Path) -> Any:
    """What gives the labels of a run's classifier, by its name."""

    def check(name: str, where: str) -> Check:
        run = _classifier_of(name, folder, where)

        def labels(rows: Sequence[Row]) -> list[str | None]:
            from luthier.inference.model import Predictor

            predictor = Predictor(run)
            values = [dict(r.values) for r in rows]
            refused = predictor.refusals(values)
            answers = iter(predictor.predict([v for v, why in zip(values, refused, strict=True) if why is None]))
            return [None if why is not None else _said(next(answers)) for why in refused]

        return labels

    return check


def _said(answer: dict[str, Any]) -> str:
    return "|".join(answer["labels"]) if "labels" in answer else str(answer["label"])


def _classifier_of(name: str, folder: Path, where: str) -> Path:
    """The model folder of a classification run: its folder, or its name under runs/."""
    from luthier.inference.model import read_card

    for base in (folder, Path.cwd()):
        for place in (base / Path(name).expanduser(), base / "runs" / name):
            for path in (place / "model", place):
                if not (path / "luthier.json").is_file():
                    continue
                learned = read_card(path)["task"]["type"]
                if learned not in ("classification", "few_shot"):
                    raise RunError(f"{name} learned the task {learned}", where=where, remedy="name a run that gives labels")
                return path
    raise RunError(f"no run {name}", where=where, remedy="give a run's name or folder; see luthier runs")


def _with_rows(records: Sequence[Record], rows: Rows, task: Any) -> list[tuple[Record, Row]]:
    """Each record with the row that it was read from; those that were read elsewhere are left out."""
    places: dict[tuple[str, int], list[Row]] = {}
    for row in rows.rows:
        places.setdefault((row.file, row.line), []).append(row)
    found = []
    for record in records:
        same = places.get((record.file, record.line), [])
        own = same if len(same) == 1 else [r for r in same if _is(task.record(r), record)]
        found += [(record, row) for row in own[:1]]
    return found


def _is(found: Record | str, record: Record) -> bool:
    return isinstance(found, Record) and (found.text, found.pair, found.target) == (record.text, record.pair, record.target)


def _label(task: Any, record: Record) -> str:
    """The names of a record's labels; "" where the task has none."""
    if not task.labels or task.kind == "regression":
        return ""
    places = record.target if isinstance(record.target, tuple) else (record.target,)
    return "|".join(task.labels[i] for i in places)


def _enter(prepared: Prepared, found: Grown) -> None:
    summary = prepared.summary
    read = summary["train"]
    summary["train"] = read + len(found.made)
    summary["rows_made"] = len(found.made)
    summary["augment"] = {
        "share": round(len(found.made) / max(summary["train"], 1), 4),
        "digest": found.digest(),
        "ways": [way.figures() for way in found.ways],
    }
    for way in found.ways:
        why = ", ".join(f"{n} {reason}" for reason, n in way.left_out.most_common(SAMPLES))
        prepared.notes.append(f"{way.method} made {way.made} of {way.asked} rows" + (f"; left out: {why}" if why else ""))


def _digests(summary: dict[str, Any], key: str) -> list[str | None]:
    """The digest of a summary, and of those of its tasks."""
    return [s.get(key, {}).get("digest") for s in (summary, *summary.get("tasks", {}).values())]


def refuse_others(before: dict[str, Any], now: dict[str, Any], *, where: str) -> None:
    """Raise RunError where a run that goes on would train on other made or mended rows than it began with."""
    for key, does in (("augment", "makes"), ("mend", "mends")):
        if _digests(before, key) != _digests(now, key):
            raise RunError(
                f"the rows that data.{key} {does} are not those that it began with",
                where=where,
                remedy="a model that it asks has changed, or its answers are gone from the cache: train a new run",
            )
