"""What a training did elsewhere: scores on other files, before and after.

Enters: a job and its probe files, read as the training files are. Leaves: the figures of each probe's rows, from
which the scores are drawn.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.origin import located
from luthier.data.prepare import Record
from luthier.data.rows import read
from luthier.data.tokens import cache_folder
from luthier.errors import DataError
from luthier.evaluation.intervals import Score, with_intervals
from luthier.inference.predict import outputs
from luthier.workflow.build import Job

ROWS = 300
"""Rows of a probe that are looked at, drawn with the seed."""


def records_of(job: Job) -> dict[str, list[Record]]:
    """The usable rows of each probe. Raises DataError for one without any."""
    recipe, found = job.resolved.recipe, {}
    data = recipe.data
    for name, file in recipe.evaluation.probes.items():
        rows = [
            row
            for path in located(file, data.model_copy(update={"name": None, "sample": False}), folder=job.resolved.folder)
            for row in read(path, encoding=data.encoding, separator=data.separator, text=data.text).rows
        ]
        records = [r for row in rows if isinstance(r := job.task.record(row), Record)]
        if not records:
            raise DataError("no usable rows", where=f"evaluation.probes.{name}", remedy="a probe needs the columns of the training files")
        if len(records) > ROWS:
            records = random.Random(recipe.training.seed).sample(records, ROWS)
        found[name] = records
    return found


def measure(job: Job, probes: dict[str, list[Record]]) -> dict[str, NDArray[np.float64]]:
    """The model's figures on each probe, (rows, width)."""
    layout, recipe = job.loaded.layout, job.resolved.recipe
    found = {}
    for name, records in probes.items():
        encoded = job.task.encode(
            records, job.loaded.tokenizer, config=job.loaded.model.config, max_length=job.plan.max_length, cache=cache_folder()
        )
        answer = job.task.answer(layout)
        found[name] = outputs(job.loaded.model, encoded.tokens, layout, answer=answer, max_tokens=recipe.evaluation.max_tokens)
    return found


def scores(job: Job, records: list[Record], figures: NDArray[Any]) -> dict[str, Score]:
    """The task's scores on a probe, with intervals."""
    return with_intervals(job.task.scores, job.task.gold(records), figures, resamples=job.resolved.recipe.evaluation.bootstrap)
