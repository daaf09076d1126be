"""What the model says before it is trained, for tasks that measure against that.

Enters: a job whose model is as it will be trained, and has not been. Leaves: in the task, the log-probabilities of every
part's answers, read from the cache where the same weights and the same tokens were measured before; or a copy of what trains.
"""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from luthier.data.split import Part
from luthier.data.tokens import Tokens, cache_folder
from luthier.errors import SpaceError
from luthier.inference.predict import outputs
from luthier.models.reference import Began
from luthier.security.artifacts import write_atomic
from luthier.workflow.build import Job
from luthier.workflow.events import Listener, Note, Stage


def refer(job: Job, *, listener: Listener) -> None:
    """Give a task that measures against the starting model what it needs of it."""
    task = job.task
    if not getattr(task, "referenced", False):
        return
    model, layout, budget = job.loaded.model, job.loaded.layout, job.resolved.recipe.evaluation.max_tokens
    listener(Stage("reference", "the starting model's log-probabilities"))
    weights = _weights_digest(model)
    if task.options.reference == "recomputed":
        task.began = Began(model)
        listener(Note(f"the reference is computed in each step, from a copy of what trains: {task.began.bytes / 2**20:,.1f} MiB"))
    for part, tokens in job.tokens.items():
        if (part == "train" and task.began is not None) or not len(tokens):
            continue
        path = cache_folder().parent / "reference" / f"{_key(weights, tokens, layout.kind)}.safetensors"
        sums = _kept(path, (len(tokens), task.columns_wide))
        if sums is None:
            sums = outputs(model, tokens, layout, answer=task.answer(layout), max_tokens=budget)[:, : task.columns_wide]
            _keep(path, sums)
        _remember(job, part, sums)


def _remember(job: Job, part: Part, sums: NDArray[np.float64]) -> None:
    job.task.remember(job.data.prepared.parts[part], sums)


def _kept(path: Path, shape: tuple[int, int]) -> NDArray[np.float64] | None:
    """What an earlier run computed; None where there is nothing, or something else."""
    try:
        found = load_file(path)["sums"]
    except (OSError, SafetensorError, KeyError):
        return None
    return found if found.shape == shape else None


def _keep(path: Path, sums: NDArray[np.float64]) -> None:
    with contextlib.suppress(SpaceError, OSError):  # a cache that cannot be written is only slower
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(path, lambda p: save_file({"sums": np.ascontiguousarray(sums)}, p))


def _weights_digest(model: torch.nn.Module) -> str:
    """SHA-256 of every tensor of the model."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name}{tensor.dtype}{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _key(weights: str, tokens: Tokens, kind: str) -> str:
    """SHA-256 of all that the log-probabilities depend on."""
    digest = hashlib.sha256(f"{weights} {kind} {torch.__version__} {torch.get_num_threads()}".encode())
    for name in ("input_ids", "labels", "branch"):
        lists = tokens.table[name].combine_chunks()
        for part in (lists.value_lengths(), lists.flatten()):
            digest.update(np.ascontiguousarray(part.to_numpy(zero_copy_only=False)).data)
    return digest.hexdigest()[:40]
