"""What each stage of a curriculum did to every task.

Enters: a job in the middle of its training, at the end of a stage. Leaves: a line in the run with every task's main
score on its test rows, and at the end the matrix of tasks and stages with what it amounts to (Lopez-Paz & Ranzato 2017).
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from luthier.inference.predict import combining, outputs
from luthier.models.batch import Batch, collate
from luthier.runs.store import Run
from luthier.security.artifacts import write_jsonl
from luthier.tasks.metrics import LOWER_IS_BETTER
from luthier.workflow.build import Job

FILE = "stages.jsonl"
MOST = 500
"""Rows of a finished stage that a way of retention may look at."""


def ending(job: Job, step: int) -> int | None:
    """The number of the stage that ends with update `step`."""
    ends = list(itertools.accumulate(job.plan.stages))
    return ends.index(step) if step in ends else None


def measure(job: Job, run: Run, *, step: int, stage: str, mix: float | None = None) -> None:
    """Score every task on its test rows, and write it down; what a resumed run finds there from later is dropped.

    `mix` is the share of the stage's weights that was kept, where only a share was.
    """
    layout, records = job.loaded.layout, job.data.prepared.parts["test"]
    found = outputs(
        job.loaded.model, job.tokens["test"], layout, answer=job.task.answer(layout),
        max_tokens=job.resolved.recipe.evaluation.max_tokens, combine=combining(job.task, records),
    )  # fmt: skip
    scores = job.task.scores(job.task.gold(records), found)
    names = {n: main if f"{n}.{main}" in scores else "loss" for n, main in job.task.mains.items()}  # what is written is not scored here
    line: dict[str, Any] = {"step": step, "stage": stage, "scores": {n: scores[f"{n}.{name}"] for n, name in names.items()}}
    line |= {"less": less} if (less := sorted(n for n, name in names.items() if name in LOWER_IS_BETTER)) else {}
    line |= {} if mix is None else {"mix": mix}
    write_jsonl(run.folder / FILE, [*(one for one in run.lines(FILE) if one["step"] < step), line])


def batches(job: Job, stage: str) -> list[Batch]:
    """Rows of a stage's own, one a batch, with their targets."""
    streams = job.task.streams(len(job.tokens["train"]))
    rows = [i for i, name in enumerate(streams) if name == stage]
    rows = sorted(random.Random(job.resolved.recipe.training.seed).sample(rows, min(MOST, len(rows))))
    examples, types = job.tokens["train"].examples(), job.loaded.layout.token_types
    targets: Mapping[str, torch.Tensor] = job.task.targets(job.data.prepared.parts["train"])
    found = []
    for row in rows:
        batch = collate([examples[row]], [row], types=types)
        batch.targets.update({n: v[[row]] for n, v in targets.items()})
        found.append(batch)
    return found


def matrix(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Task by stage, the mean of the last stage, and backward and forward transfer.

    Backward: how much better, on average, a task is at the end than when its stage ended; what was forgotten is negative.
    Forward: how much better it is just before its stage than before training, the line of stage "".
    """
    stages = [one["stage"] for one in lines if one["stage"]]
    scores = {one["stage"]: one["scores"] for one in lines}
    if len(stages) < 2:
        return {}
    last, less = scores[stages[-1]], lines[-1].get("less", ())
    found: dict[str, Any] = {"stages": stages, "scores": {n: [scores[s][n] for s in stages] for n in stages}}
    if mixes := [one["mix"] for one in lines if "mix" in one]:
        found["mixes"] = mixes
    found["average"] = sum(last[n] for n in stages) / len(stages)
    sign = {n: -1.0 if n in less else 1.0 for n in stages}
    found["backward_transfer"] = sum(sign[n] * (last[n] - scores[n][n]) for n in stages[:-1]) / (len(stages) - 1)
    if "" in scores:
        before = itertools.pairwise(stages)
        found["forward_transfer"] = sum(sign[b] * (scores[a][b] - scores[""][b]) for a, b in before) / (len(stages) - 1)
    return found
