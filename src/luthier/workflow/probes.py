"""What a training did elsewhere: other files, on which the model is scored before and after.

Enters: the probe files of a recipe, read as the training files are. Leaves: for each its rows in tokens, read
before anything is trained, and the figures from which its scores are drawn.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.data.origin import located
from luthier.data.prepare import Record
from luthier.data.rows import archive_of, read
from luthier.data.tokens import Tokens, cache_folder
from luthier.errors import DataError
from luthier.inference.predict import outputs
from luthier.security.artifacts import sha256

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe import Resolved
    from luthier.workflow.build import Job

ROWS = 300
"""Rows of a probe that are looked at, drawn with the seed."""


class Probe(NamedTuple):
    """Rows of another file, and the same rows in tokens."""

    records: list[Record]
    tokens: Tokens


def read_probes(resolved: Resolved, task: Any, loaded: Loaded, *, max_length: int) -> tuple[dict[str, Probe], dict[str, str]]:
    """Every probe of a recipe, and the hashes of their files. Raises DataError for one without a usable row."""
    data, probes = resolved.recipe.data, resolved.recipe.evaluation.probes
    beside = data.model_copy(update={"name": None, "sample": False})  # probes lie beside the recipe, not in the data set
    found: dict[str, Probe] = {}
    hashes: dict[str, str] = {}
    for name, file in probes.items():
        paths = located(file, beside, folder=resolved.folder)
        rows = [
            r for p in paths for r in read(p, encoding=data.encoding, columns=data.columns, separator=data.separator, text=data.text).rows
        ]
        hashes |= {str(archive_of(p)): sha256(archive_of(p)) for p in paths}
        records = [r for row in rows if isinstance(r := task.record(row), Record)]
        if len(records) > ROWS:
            records = random.Random(resolved.recipe.training.seed).sample(records, ROWS)
        encoded = task.encode(records, loaded.tokenizer, config=loaded.model.config, max_length=max_length, cache=cache_folder())
        records = [r for i, r in enumerate(records) if i not in encoded.rejected]
        if not records:
            raise DataError("no usable rows", where=f"evaluation.probes.{name}", remedy="a probe needs the columns of the training files")
        found[name] = Probe(records, loaded.lay(encoded.tokens))
    return found, hashes


def measure(job: Job) -> Mapping[str, NDArray[np.float64]]:
    """The model's figures on each probe, (rows, width)."""
    layout, budget = job.loaded.layout, job.resolved.recipe.evaluation.max_tokens
    answer = job.task.answer(layout)
    return {name: outputs(job.loaded.model, probe.tokens, layout, answer=answer, max_tokens=budget) for name, probe in job.probes.items()}
