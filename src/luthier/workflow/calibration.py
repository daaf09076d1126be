"""How long an epoch takes, from a few updates.

Enters: a job whose model is not needed any more. Leaves: seconds an epoch, by tokens: the first update, which warms
up, is not counted. The updates are those that training would make, at a learning rate of zero.
"""

from __future__ import annotations

import itertools
import time

from luthier.models.load import for_training
from luthier.training.loop import train
from luthier.training.optim import Optimizer
from luthier.workflow.build import Job
from luthier.workflow.stream import stream

UPDATES, LONGEST = 6, 20.0
"""Updates that are timed, and seconds after which no more are begun."""


def seconds_per_epoch(job: Job) -> float:
    """Time a few updates of the job's own model, rows and optimizer."""
    options, loaded = job.resolved.recipe.training, job.loaded
    kept = for_training(
        loaded.model, device=job.host.device, dtype=job.host.dtype, head=loaded.head, checkpointing=options.checkpointing
    )  # fmt: skip
    updates_to_come = stream(job.tokens["train"], job.data.prepared.parts["train"], job.task, options, loaded.layout)
    updates = train(
        loaded.model,
        updates_to_come,
        loss=job.task.loss(loaded.layout),
        optimizer=Optimizer(loaded.model, options, kept=kept, scale=job.method.rate_scale),
        rate=lambda step: 0.0,
        seed=options.seed,
    )
    next(updates)
    begun, tokens = time.monotonic(), 0
    for report in itertools.islice(updates, UPDATES):
        tokens += report.tokens
        if time.monotonic() - begun > LONGEST:
            break
    return (time.monotonic() - begun) / max(1, tokens) * sum(job.tokens["train"].lengths())
