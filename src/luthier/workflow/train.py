"""The main job, stage after stage: data, build, measure before, train, record.

These are the functions behind `import luthier` and every command of the CLI.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from luthier.errors import Interrupted, RunError
from luthier.models.source import fingerprint
from luthier.recipe import Recipe, Resolved, dump, load_recipe
from luthier.runs.store import Run, create, now
from luthier.security.artifacts import write_json, write_jsonl, write_text
from luthier.workflow.build import Job, build
from luthier.workflow.events import Listener, silent
from luthier.workflow.fit import Fit, weights_digest
from luthier.workflow.grown import refuse_others
from luthier.workflow.lineage import recipe_of, refuse_changed_data
from luthier.workflow.onward import REPLAY, onward
from luthier.workflow.record import after, before

PACKAGES = ("luthier", "torch", "transformers", "tokenizers", "safetensors", "numpy", "scikit-learn", "pyarrow")


def train(recipe: str | Path | Mapping[str, Any] | Recipe, *, overrides: Sequence[str] = (), listener: Listener = silent) -> Run:
    """Fine-tune by a recipe; returns the finished run."""
    return start(load_recipe(recipe, overrides=overrides), listener=listener)


def start(resolved: Resolved, *, parent: str | None = None, listener: Listener = silent) -> Run:
    """Make a run of a resolved recipe and carry it through; of a recipe of rounds, every round, and the last one's run."""
    if resolved.recipe.rounds is not None:
        from luthier.workflow.rounds import go

        return go(resolved, listener=listener)
    job = build(resolved, listener=listener)
    run = create(Path(resolved.recipe.output.folder).expanduser(), resolved.name)
    with run.lock():
        write_text(run.folder / "recipe.yaml", dump(resolved.recipe))
        write_json(run.folder / "trained.json", {n: p.numel() for n, p in job.loaded.model.named_parameters() if p.requires_grad})
        if job.data.prepared.made:
            write_jsonl(run.folder / "made.jsonl", (m.lineage() for m in job.data.prepared.made))
        if job.data.prepared.mended:
            write_jsonl(run.folder / "mended.jsonl", (f._asdict() for f in job.data.prepared.mended))
        run.record(
            status="running",
            started=now(),
            name=resolved.name,
            recipe_folder=str(resolved.folder),
            parent=parent or (job.origin.id if job.origin else None),
            prompt=getattr(resolved.recipe.task, "prompt", None),
            base=fingerprint(job.source, job.loaded.commit) if job.source else {"from_scratch": resolved.recipe.training.seed},
            versions=versions(),
            seed=resolved.recipe.training.seed,
            **job.facts(),
        )
        _carry(job, run, listener=listener)
    return run


def resume(run: Run, *, finish: bool = False, listener: Listener = silent) -> Run:
    """Go on with a run that was stopped, or with `finish` end it where it is; a finished one is returned as it is.

    Raises RunError when its data have changed since.
    """
    facts = run.facts
    if facts["status"] == "done":
        return run
    refuse_changed_data(run)
    with run.lock():
        resolved = recipe_of(run)
        resolved.recipe.training.threads = facts["host"]["threads"]
        job = build(resolved, listener=listener)
        refuse_others(facts["data"]["summary"], job.data.prepared.summary, where=str(run.folder))
        run.record(status="running")
        _carry(job, run, finish=finish, listener=listener)
    return run


def continue_run(
    run: Run,
    *,
    data: str | Path | Sequence[str | Path] | None = None,
    epochs: float | None = None,
    replay: float = REPLAY,
    overrides: Sequence[str] = (),
    listener: Listener = silent,
) -> Run:
    """Train a finished run's model further, as a new run with the old one as its parent.

    Without `data` longer, on the same rows, for so many `epochs`. With files of new `data` on these, where a share `replay` of
    each epoch are rows that the run was trained on; 0 brings none back. Raises RunError for a run that is not finished or whose
    data have changed, RecipeError where the two cannot be put together, DataError for files that cannot be used.
    """
    _refuse_unfinished(run)
    return start(onward(run, data=data, epochs=epochs, replay=replay, overrides=overrides), parent=run.id, listener=listener)


def reproduce(run: Run, *, listener: Listener = silent) -> tuple[Run, dict[str, Any]]:
    """Train a run again from its record; returns the new run and what is the same."""
    _refuse_unfinished(run)
    facts = run.facts
    resolved = recipe_of(run)
    resolved.recipe.training.threads = facts["host"]["threads"]
    again = start(Resolved(resolved.recipe, resolved.folder, f"{resolved.name}-again", resolved.sources), parent=run.id, listener=listener)
    new = again.facts
    return again, {
        "same_data": new["data"]["files"] == facts["data"]["files"],
        "same_weights": new.get("weights_digest") == facts.get("weights_digest"),
        "same_log": (again.folder / "log.jsonl").read_bytes() == (run.folder / "log.jsonl").read_bytes(),
        "score": {"before": facts["score"], "again": new["score"]},
        "versions": {k: (v, new["versions"].get(k)) for k, v in facts["versions"].items() if new["versions"].get(k) != v},
    }


def _refuse_unfinished(run: Run) -> None:
    if run.facts["status"] != "done":
        raise RunError("is not finished", where=str(run.folder), remedy=f"luthier resume {run.folder}")


def versions() -> dict[str, str]:
    """Versions of what computes."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _carry(job: Job, run: Run, *, finish: bool = False, listener: Listener) -> None:
    """Measure, train, record; the run's status says how it ended."""
    try:
        measured = before(job, run, listener=listener)
        progress = Fit(job, run, listener=listener).go(finish=finish)
        run.record(weights_digest=weights_digest(job.loaded.model), progress=vars(progress))
        after(job, run, measured, listener=listener)
        run.record(status="done", ended=now())
    except (Interrupted, KeyboardInterrupt):
        run.record(status="interrupted", ended=now())
        raise
    except Exception as error:
        run.record(status="failed", ended=now(), error=f"{type(error).__name__}: {error}")
        raise
