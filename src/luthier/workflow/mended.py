"""The training part of a recipe, mended: `data.mend`.

Enters: the parts of a data set. Leaves: the same without the training rows whose label is probably wrong, or with the likelier label for
them, what was done to which (`Prepared.mended`), and the figures in the summary. The other parts are not looked at: a test that is
mended would agree with whoever mended it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.books import Fate
from luthier.data.prepare import Prepared
from luthier.errors import DataError, Fault, ModelError, RecipeError
from luthier.registry import LABEL_JUDGES

if TYPE_CHECKING:
    from luthier.data.books import Outcome
    from luthier.data.prepare import Record
    from luthier.recipe.mend import Mend

WHERE = "data.mend"
TASKS = ("classification", "few_shot")
"""Tasks whose texts have labels of their own."""


def refuse(task: Any) -> None:
    """Raise RecipeError for a task whose rows have not one label each."""
    if task.name not in TASKS or task.kind != "single_label":
        kind = f" ({task.kind})" if task.name in TASKS else ""
        remedy = "it is for texts with one label each; see luthier data quality for others"
        raise RecipeError([Fault(f"rows of the task {task.name}{kind} have no label that could be judged", WHERE, remedy)])


def mended(task: Any, mend: Mend, prepared: Prepared, *, seed: int, folder: Path, leave: Collection[int] | None = None) -> None:
    """Drop or relabel training records. Those whose `id` is among `leave` are looked at, and stay as they are.

    Where `leave` is given, a run goes on: too few rows to judge are told then, and no error.

    Raises RecipeError for a task without labels, DataError for labels that cannot be judged, ModelError where the model cannot be had.
    """
    refuse(task)
    train = prepared.parts["train"]
    try:
        findings, notes = _errors(task, mend, train, seed, folder)
    except DataError as error:
        if leave is None:
            raise
        findings, notes = [], [f"data.mend: {error.fault.message}: none is mended"]
    wrong = {id(r): f for f in findings if f.score >= mend.at_least and id(r := train[f.rows[0]]) not in (leave or ())}
    kept: list[Record] = []
    for record in train:
        if (finding := wrong.get(id(record))) is None:
            kept.append(record)
            continue
        prepared.mended.append(_fate(record, finding, task, mend))
        if mend.type == "relabel":
            kept.append(replace(record, target=task.labels.index(finding.suggested[0])))
    prepared.parts["train"] = kept
    _enter(prepared, mend, judged=len(train), notes=notes)


def _fate(record: Record, finding: Any, task: Any, mend: Mend) -> Fate:
    given, suggested = task.labels[record.target], finding.suggested[0]
    what = f"{given} → {suggested}" if mend.type == "relabel" else f"suspected of being {suggested}"
    outcome: Outcome = "changed" if mend.type == "relabel" else "dropped"
    return Fate(record.file, record.line, outcome, "mend", f"{finding.kind}: {what}; {finding.reason}")


def _errors(task: Any, mend: Mend, records: list[Record], seed: int, folder: Path) -> tuple[list[Any], list[str]]:
    """Label errors of the records, by their places, and what is to be told."""
    import numpy as np

    beside = folder / Path(mend.model).expanduser()
    gold = np.array([r.target for r in records], np.int64)
    texts = [r.text if r.pair is None else f"{r.text}\n{r.pair}" for r in records]
    try:
        found = LABEL_JUDGES.load("others")(texts, gold, task.labels, model=beside if beside.exists() else mend.model, seed=seed)
    except ModelError as error:
        raise ModelError(error.fault.message, where=f"{WHERE}.model", remedy=error.fault.remedy) from None
    except DataError as error:
        raise DataError(error.fault.message, where=WHERE, remedy="take it out, or give more training rows of each label") from None
    return found.findings, found.notes


def _enter(prepared: Prepared, mend: Mend, *, judged: int, notes: list[str]) -> None:
    summary, done = prepared.summary, prepared.mended
    summary["train"] = len(prepared.parts["train"])
    summary["rows_mended"] = len(done)
    summary["rows_dropped_by_mending"] = len(done) if mend.type == "drop" else 0
    rows = json.dumps(sorted((f.file, f.line, f.reason.partition(";")[0]) for f in done), ensure_ascii=False)
    summary["mend"] = {"type": mend.type, "at_least": mend.at_least, "judged": judged, "digest": hashlib.sha256(rows.encode()).hexdigest()}
    what = "dropped" if mend.type == "drop" else "relabelled"
    prepared.notes += [f"{len(done)} of {judged} training rows {what}: their label is wrong with {mend.at_least:.0%} or more", *notes]
