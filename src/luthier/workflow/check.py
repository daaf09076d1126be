"""Finding in seconds what would fail in an hour, and saying what the engine will do.

Enters: a recipe. Leaves: a `Checked`: the data summary, notes, and every value with where it came
from. Nothing is trained; the token cache and an empty
folder for runs are all that is written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.models.source import resolve
from luthier.recipe import Recipe, Resolved, load_recipe
from luthier.security.artifacts import need_space
from luthier.workflow.dataset import dataset
from luthier.workflow.lineage import name_its_model
from luthier.workflow.plan import infer_from_data

if TYPE_CHECKING:
    from luthier.workflow.memory import MemoryPlan
    from luthier.workflow.xray import Piece


@dataclass(frozen=True)
class Checked:
    """What a recipe comes to."""

    resolved: Resolved
    summary: dict[str, Any]
    notes: list[str]
    engine: dict[str, str] = field(default_factory=dict)
    quarantined: list[Any] = field(default_factory=list)
    samples: list[list[Piece]] = field(default_factory=list)
    memory: dict[str, Any] | None = None
    """The memory plan; None where the model was not looked at, or its architecture cannot be run without weights."""
    trained: dict[str, int] = field(default_factory=dict)
    """Each parameter that moves, with its size."""


def check(
    recipe: str | Path | Mapping[str, Any] | Recipe, *, overrides: Sequence[str] = (), with_model: bool = True, timed: bool = False
) -> Checked:
    """Check a recipe against its data and, unless told otherwise, its model; with `timed`, time a few updates too.

    Raises the LuthierError that training would have met.
    """
    resolved = load_recipe(recipe, overrides=overrides)
    if resolved.recipe.rounds is not None:
        from luthier.workflow.rounds import asking

        resolved = asking(resolved)  # what is trained on is not there yet: the prompts, who rates, and the model are looked at
    name_its_model(resolved)
    scratch = resolved.recipe.model.from_scratch
    location = "a new one" if scratch is not None else resolve(resolved.recipe.model, folder=resolved.folder).location
    if not with_model:
        data = dataset(resolved, models=False)
        infer_from_data(resolved, data)
        need_space(Path(resolved.recipe.output.folder).expanduser(), 1 << 20, purpose="a run")
        return Checked(resolved, data.prepared.summary, data.prepared.notes, {"model": location}, data.prepared.quarantined)
    from luthier.models.adapters.method import count, trained
    from luthier.workflow.build import build
    from luthier.workflow.calibration import seconds_per_epoch
    from luthier.workflow.xray import samples

    job = build(resolved)
    layout, plan, host = job.loaded.layout, job.plan, job.host
    _, parameters = count(job.loaded.model)
    changed = {n: p.numel() for n, p in job.loaded.model.named_parameters() if p.requires_grad}
    disk = sum(t.numel() * t.element_size() for t in trained(job.loaded.model).values()) * 3 * (resolved.recipe.checkpoints.keep + 2)
    need_space(Path(resolved.recipe.output.folder).expanduser(), disk, purpose="training (checkpoints)")
    planned = _memory(resolved)
    tokens = {part: sum(t.lengths()) for part, t in job.tokens.items()}
    engine = {
        "model": f"{location}, {parameters:,} parameters",
        **(planned if isinstance(planned, dict) else planned.lines()),
        "batches": _batches(layout, pooled=job.loaded.head.kind == "classes"),
        "training": f"{plan.total_updates} updates over {plan.epochs:g} epochs, {tokens['train']:,} tokens an epoch",
        "device": f"{host.device}, {host.threads} threads, {str(host.dtype).removeprefix('torch.')}",
        "on": ", ".join(host.on) or "nothing",
        "off": "; ".join(f"{k} ({v})" for k, v in host.off.items()) or "nothing",
        "disk": f"at most {disk / 2**20:,.0f} MiB of checkpoints",
    }
    shown = samples(job.tokens["train"], job.loaded.tokenizer)
    if timed:
        seconds = seconds_per_epoch(job)
        engine["time"] = f"about {spoken(seconds)} an epoch, {spoken(seconds * plan.total_updates / plan.updates_per_epoch)} in all"
    return Checked(
        resolved,
        job.data.prepared.summary,
        job.notes,
        engine,
        job.data.prepared.quarantined,
        shown,
        None if isinstance(planned, dict) else planned.facts(),
        changed,
    )


def _memory(resolved: Resolved) -> MemoryPlan | dict[str, str]:
    """The memory plan; or, where the architecture cannot be run without weights, a line that says so."""
    from luthier.workflow.memory import memory

    try:
        return memory(resolved)
    except Exception as error:  # any architecture may fail in its own way: training is not refused for that
        return {"memory": f"not foretold: {type(error).__name__}: {str(error).splitlines()[0][:120] if str(error) else ''}"}


def _batches(layout: Any, *, pooled: bool) -> str:
    if layout.kind == "padded":
        return f"padded ({layout.reason})"
    where = "over all tokens" if layout.pooling == "mean" else f"at the {layout.pooling} token"
    return f"ragged, pooled {where}" if pooled else "ragged, no example looks at another"


def spoken(seconds: float) -> str:
    """A length of time for people."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
