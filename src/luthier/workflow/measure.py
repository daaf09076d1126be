"""After training: predict, evaluate on other data, compare two runs.

Enters: finished runs. Leaves: predictions, scores with intervals, and a paired comparison with the
rows on which two runs differ.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from luthier.data.prepare import Record, need_columns
from luthier.data.rows import Rows, read
from luthier.errors import DataError, RunError
from luthier.evaluation import compare as comparing
from luthier.evaluation.intervals import Score, with_intervals
from luthier.inference.model import Predictor, read_card, restore_task
from luthier.recipe import Recipe
from luthier.runs.store import Run
from luthier.workflow import policy, written
from luthier.workflow.dataset import dataset
from luthier.workflow.events import silent
from luthier.workflow.lineage import recipe_of, refuse_changed_data, what_is_learned


def predict(run: Run, rows: Sequence[str | dict[str, Any]]) -> list[dict[str, Any]]:
    """A run's predictions for texts, or for rows with the columns of training."""
    return predictor_of(run).predict(rows)


def predictor_of(run: Run) -> Predictor:
    """A run's model, loaded for answering. Raises RunError when it has none yet."""
    return Predictor(_model(run))


def read_rows(run: Run, file: Path) -> Rows:
    """A data file, understood as the run's own data were."""
    data = recipe_of(run).recipe.data
    return read(file, format=data.format, encoding=data.encoding, columns=data.columns, separator=data.separator, text=data.text)


def evaluate(run: Run, files: Sequence[Path] | None = None, *, resamples: int = 1000) -> tuple[dict[str, Score], Rows]:
    """Score a run's saved model on its own test part, or on other files with the same columns.

    Returns the scores and what could not be used. Raises DataError where no row is usable.
    """
    predictor = Predictor(_model(run), threads=run.facts["host"]["threads"])
    recipe = recipe_of(run).recipe
    task = predictor.task
    task.data = recipe.data
    policy.equip(task, folder=recipe_of(run).folder, listener=silent)
    rest = Rows()
    if files is None:
        refuse_changed_data(run)
        records = dataset(recipe_of(run), models=False).prepared.parts["test"]
    else:
        for file in files:
            found = read_rows(run, file)
            rest.rows += found.rows
            rest.quarantined += found.quarantined
        need_columns(rest, task.columns())
        records = _usable(task, rest)
    records, answers = predictor.measure(records, max_tokens=recipe.evaluation.max_tokens)
    if predictor.truncated:
        rest.notes.append(f"{predictor.truncated} of {len(records)} texts are cut to {predictor.card['max_length']} tokens")
    gold = task.gold(records)
    strata = task.strata(gold) if hasattr(task, "strata") else None
    scores = with_intervals(task.scores, gold, answers, resamples=resamples, strata=strata)
    return scores | _of_texts(predictor, records, recipe, resamples=resamples), rest


def _of_texts(predictor: Predictor, records: Sequence[Record], recipe: Recipe, *, resamples: int) -> dict[str, Score]:
    """The scores of what the model writes, on as many rows as the recipe says; nothing where it writes nothing to be scored."""
    task, loaded, most = predictor.task, predictor.loaded, recipe.evaluation.max_tokens
    if not task.text_score_names():
        return {}
    chosen = [records[place] for place in written.drawn(task, records, recipe)]
    texts = written.answers(task, loaded, chosen, max_length=predictor.card["max_length"], max_tokens=most)
    figures = written.figures_of(task, loaded, chosen, texts, max_tokens=most)
    return {} if figures is None else written.Scorer(task).with_intervals(figures, resamples=resamples)


def compare(a: Run, b: Run, *, resamples: int = 1000) -> tuple[comparing.Comparison, list[dict[str, Any]]]:
    """B against A on the test rows both were scored on; also the rows on which they differ.

    Raises RunError when their tasks or test rows are not the same.
    """
    import numpy as np
    from safetensors.numpy import load_file

    left, right = a.lines("predictions/test.jsonl"), b.lines("predictions/test.jsonl")
    task, other = task_of(a), task_of(b)
    if what_is_learned(task) != what_is_learned(other):
        raise RunError("the runs have different labels or kinds", remedy="compare runs of one task")
    places: dict[tuple[str, ...], list[int]] = {}
    for index, row in enumerate(right):
        places.setdefault(_same(row), []).append(index)
    pairs = [(i, places[k].pop(0)) for i, row in enumerate(left) if places.get(k := _same(row))]
    if len(pairs) < max(2, len(left) // 2):
        raise RunError(f"the runs share {len(pairs)} of {len(left)} test rows", remedy="compare runs with the same data and seed")
    rows_a, rows_b = [i for i, _ in pairs], [j for _, j in pairs]
    kept = load_file(a.folder / "predictions" / "test.safetensors")
    out_a, gold = kept["outputs"][rows_a], kept["gold"][rows_a]
    other_kept = load_file(b.folder / "predictions" / "test.safetensors")
    out_b = other_kept["outputs"][rows_b]
    if hasattr(task, "referenced") and not np.array_equal(gold, other_kept["gold"][rows_b], equal_nan=True):
        remedy = "evaluate each by itself: luthier evaluate RUN"
        raise RunError("the runs measure their rows against other starting models, or by other losses", remedy=remedy)
    result = comparing.compare(
        task.scores, gold, out_a, out_b, loss_a=task.row_loss(gold, out_a), loss_b=task.row_loss(gold, out_b), resamples=resamples,
        strata=task.strata(gold) if hasattr(task, "strata") else None,
    )  # fmt: skip
    result = replace(result, differences=result.differences | _of_written(task, kept, other_kept, pairs, resamples=resamples))
    differing = [
        {
            "text": left[rows_a[i]]["text"],
            "target": left[rows_a[i]]["target"],
            "a": _answer(left[rows_a[i]]),
            "b": _answer(right[rows_b[i]]),
        }
        for i in result.differing
    ]
    return result, differing


def _same(row: dict[str, Any]) -> tuple[str, ...]:
    """What tells a test row from others: its text, its target, and the task that it is of, where there are several."""
    return row["key"], str(row["target"]), str(row.get("task", ""))


def _of_written(
    task: Any, kept: Mapping[str, Any], other: Mapping[str, Any], pairs: Sequence[tuple[int, int]], *, resamples: int
) -> dict[str, tuple[float, float, float]]:
    """The differences of the scores of written texts, on the rows that both have answered in full."""
    import numpy as np

    if "written" not in kept or "written" not in other:
        return {}
    mine, theirs = ({int(row): i for i, row in enumerate(k["written_rows"])} for k in (kept, other))
    both = [(mine[i], theirs[j]) for i, j in pairs if i in mine and j in theirs]
    if not both:
        return {}
    a, b = kept["written"][[i for i, _ in both]], other["written"][[j for _, j in both]]
    scorer = written.Scorer(task)
    return comparing.paired(
        scorer, np.zeros(len(a)), a, b, resamples=resamples, draw=np.random.default_rng(0), strata=scorer.strata(a)
    )  # fmt: skip


def task_of(run: Run) -> Any:
    """The task of a run without its model."""
    return restore_task(read_card(_model(run)))


def _model(run: Run) -> Path:
    if not (run.model / "luthier.json").is_file():
        raise RunError("has no model yet", where=str(run.folder), remedy=f"luthier resume {run.folder}")
    return run.model


def _usable(task: Any, rows: Rows) -> list[Record]:
    from luthier.data.rows import Quarantined

    checked = [(row, task.record(row)) for row in rows.rows]
    rows.quarantined += [Quarantined(w.file, w.line, r, "") for w, r in checked if isinstance(r, str)]
    records = [r for _, r in checked if isinstance(r, Record)]
    if not records:
        reason = rows.quarantined[0].reason if rows.quarantined else "the file is empty"
        raise DataError(f"no usable rows; the first: {reason}", remedy="the file needs the columns of training")
    return records


def _answer(row: dict[str, Any]) -> Any:
    if isinstance(row["target"], dict):  # several tasks, each with what it said
        return "; ".join(f"{name}: {_answer({'target': '', **row[name]})}" for name in row["target"])
    if "written" in row:
        return row["written"]
    if "nats" in row:
        return f"{row['nats'] / max(row['tokens'], 1):.3f} nats a token"
    if "deprel" in row:
        return " ".join(f"{head}:{name}" for head, name in zip(row["head"], row["deprel"], strict=True))
    return next(row[k] for k in ("label", "labels", "value", "answer", "tags", "spans", "rank") if k in row)
