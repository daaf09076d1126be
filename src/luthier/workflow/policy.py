"""What policy optimisation needs beside what every training has: a judge, answers drawn while training, and an eye on them.

Enters: a job. Leaves: its task with rewards at hand, its prompts made into rollouts, and a watch that says when to stop.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from luthier.alignment.rewards.reward import Asked
from luthier.alignment.rollouts import Drawing, Rollouts
from luthier.alignment.scoring import Scored, Scorer
from luthier.data.prepare import Record
from luthier.models.reference import Began
from luthier.tasks.policy import Question
from luthier.tasks.tokenizer import stop_ids
from luthier.training.batches import UpdateStream
from luthier.workflow.events import Listener, Note

if TYPE_CHECKING:
    from luthier.workflow.build import Job


Judging = Callable[[Sequence[Question], Sequence[Sequence[str]]], Scored]
"""Scores the answers to each question; of each as many."""
FOLLOWED = 3
"""Prompts whose answers are kept at each evaluation."""


def rolls(task: Any) -> bool:
    """Whether a task learns from its own answers."""
    return bool(getattr(task, "rolls", False))


def equip(task: Any, *, folder: Path, listener: Listener) -> None:
    """Give a task that learns from its own answers what judges them; faults of the judging are told once a kind."""
    if not rolls(task):
        return
    scorer = Scorer(task.options.rewards, folder=folder)
    weakref.finalize(task, scorer.close)  # what rewards hold, such as connections, ends with the task
    for note in scorer.notes:
        listener(Note(note))
    task.judges = scorer.facts
    task.judge = judge_of(scorer, listener=listener)


def judge_of(scorer: Scorer, *, listener: Listener) -> Judging:
    """What scores answers to questions; faults are told once a kind."""
    told: set[str] = set()

    def judge(questions: Sequence[Question], answers: Sequence[Sequence[str]]) -> Scored:
        found = scorer.score([Asked(q.messages, list(a), q.row) for q, a in zip(questions, answers, strict=True)])
        for fault, count in found.faults.items():
            if fault not in told:
                told.add(fault)
                listener(Note(f"{count} answers could not be judged: {fault}"))
        return found

    return judge


def rollouts(job: Job, prompts: UpdateStream, *, listener: Listener) -> Rollouts:
    """The job's prompts as updates of the answers that its model gives."""
    recipe, loaded = job.resolved.recipe, job.loaded
    began = Began(loaded.model)
    listener(Note(f"the start is kept to measure against: a copy of what trains, {began.bytes / 2**20:,.1f} MiB"))
    records = job.data.prepared.parts["train"]
    drawing = Drawing(
        tokenizer=loaded.tokenizer,
        layout=loaded.layout,
        stop_ids=stop_ids(loaded.tokenizer, config=loaded.model.config),
        max_length=job.plan.max_length + len(loaded.virtual),
        max_tokens=recipe.evaluation.max_tokens,
        seed=recipe.training.seed,
    )
    return Rollouts(
        prompts,
        job.tokens["train"].examples(),
        [r.target for r in records],
        task=job.task,
        model=loaded.model,
        began=began,
        drawing=drawing,
        max_tokens=recipe.training.max_tokens,
    )


def followed(records: Sequence[Record], texts: Sequence[str], figures: NDArray[np.float64] | None) -> list[dict[str, Any]]:
    """The answers to the first few prompts, with their rewards: the same prompts at each evaluation."""
    if figures is None:
        return []
    return [
        {"asked": r.text, "said": text, "reward": float(line[0]) if np.isfinite(line[0]) else None}
        for r, text, line in zip(records[:FOLLOWED], texts, figures, strict=False)
    ]
