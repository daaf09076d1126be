"""The hardest moments of a training, once, before its first update.

Enters: a `Fit` that has not begun. Leaves: nothing but the knowledge that the largest batch, an evaluation batch, a
save and a merge fit in memory and on disk; weights, gradients, random numbers and the order of batches are as before.
A shortage becomes a `MemoryShortage` that says which of the four it was and what to do, while nothing is lost yet.
"""

from __future__ import annotations

import copy
import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from luthier.errors import MemoryShortage
from luthier.inference.predict import evaluating
from luthier.models.adapters.method import trained
from luthier.models.batch import collate, within_budget
from luthier.security.artifacts import need_space
from luthier.training import checkpoint

if TYPE_CHECKING:
    from luthier.workflow.fit import Fit

SMALL = 1 << 30
"""Bytes up to which a save is made; the disk that larger ones need is computed."""
MARKS = ("out of memory", "can't allocate memory", "not enough memory", "cannot allocate memory", "defaultcpuallocator", "bad_alloc")
LESS = "lower {budget}, set training.checkpointing: true or method: lora; `luthier check RECIPE --fit 8GiB` finds what fits in 8 GiB"


def rehearse(fit: Fit) -> None:
    """Run the four. Raises MemoryShortage, or SpaceError where the disk is too small."""
    devices = [fit.job.host.device] if fit.job.host.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        try:
            _train(fit)
            _evaluate(fit)
            _save(fit)
            _merge(fit)
        finally:
            fit.optimizer.clear()
            for parameter in fit.model.parameters():
                parameter.grad = None


def _train(fit: Fit) -> None:
    """The largest batch of the whole training, forward and backward."""
    batch = fit.stream.heaviest(fit.job.plan.total_updates).batch
    what = f"the largest training batch ({len(batch.rows)} examples, {batch.tokens:,} tokens)"
    with _told(what, where="training.max_tokens", remedy=LESS.format(budget="training.max_tokens")):
        fit.loss(fit.model, batch.to(fit.job.host.device)).sum.backward()


def _evaluate(fit: Fit) -> None:
    """The first batch of the first evaluation, which is its largest."""
    layout, tokens = fit.job.loaded.layout, fit.job.tokens["validation" if fit.job.data.prepared.parts["validation"] else "test"]
    lengths, examples = tokens.lengths(), tokens.examples()
    budget, padded = fit.evaluation.max_tokens, layout.kind == "padded"
    rows = next(within_budget(range(len(lengths)), lengths, budget, padded=padded, longest_first=True))
    batch = collate([examples[r] for r in rows], rows, types=layout.token_types)
    what = f"the largest evaluation batch ({len(rows)} examples, {batch.tokens:,} tokens)"
    with _told(what, where="evaluation.max_tokens", remedy=LESS.format(budget="evaluation.max_tokens")), evaluating(fit.model):
        fit.job.task.answer(layout)(fit.model, batch.to(fit.job.host.device))


def _save(fit: Fit) -> None:
    """A checkpoint of the weights, removed again; of large models the disk that it takes alone."""
    weights = trained(fit.model)
    size = sum(t.numel() * t.element_size() for t in weights.values())
    need_space(fit.run.checkpoints, size * 3, purpose="a checkpoint")
    if size > SMALL:
        return
    folder = fit.run.folder / ".rehearsal"
    try:
        with _told("saving a checkpoint", where="checkpoints", remedy="set method: lora, whose checkpoints are small"):
            checkpoint.save(folder, step=0, weights=weights, optimizer=fit.optimizer.state_dict(), state={})
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _merge(fit: Fit) -> None:
    """The largest adapted layer merged, in a copy: merging goes layer by layer."""
    if not (fit.job.method.adapter and fit.job.method.mergeable) or fit.job.loaded.quantization != "none":
        return
    from peft.tuners.tuners_utils import BaseTunerLayer

    layers = [m for m in fit.model.modules() if isinstance(m, BaseTunerLayer) and isinstance(m, torch.nn.Module)]
    sizes = [sum(p.numel() for p in m.get_base_layer().parameters()) for m in layers]
    if not layers or max(sizes) * 4 > SMALL:
        return
    layer = layers[sizes.index(max(sizes))]
    with (
        _told("merging the adapters of one layer", where="method", remedy="set a lower rank, or keep the adapters unmerged"),
        torch.no_grad(),
    ):
        copy.deepcopy(layer).merge(safe_merge=True)


@contextmanager
def _told(what: str, *, where: str, remedy: str) -> Iterator[None]:
    """Turn a shortage of memory inside into words."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if not is_shortage(error):
            raise
        raise MemoryShortage(f"{what} does not fit in memory; nothing was trained yet", where=where, remedy=remedy) from error


def is_shortage(error: BaseException) -> bool:
    """Whether an exception says that memory ran out, in any of the ways of Python, torch, CUDA and the kernel."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(mark in str(error).lower() for mark in MARKS)
