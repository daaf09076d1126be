"""Answers to facts: the last stage.

Enters: a job whose model is trained, and the outputs of what it is measured against. Leaves: in the
run folder, scores with intervals, the predictions of the test part, the plain model and the report.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from luthier.errors import SpaceError
from luthier.evaluation import baselines
from luthier.evaluation.baselines import METHODS
from luthier.evaluation.intervals import Score, with_intervals
from luthier.evaluation.learning import signs
from luthier.evaluation.report import Story, render
from luthier.inference.predict import combining, embeddings, outputs
from luthier.models import quantize
from luthier.models.save import save
from luthier.models.source import fingerprint
from luthier.runs.card import model_card
from luthier.runs.store import Run
from luthier.security.artifacts import sha256, write_atomic, write_json, write_jsonl, write_text
from luthier.workflow import policy, probes, stages, written
from luthier.workflow.build import Job
from luthier.workflow.events import Listener, Note, Stage
from luthier.workflow.stream import taken

Array = NDArray[np.float64]
PROBE = "base.probe."
LONGEST = 20_000
"""Characters of a test text kept in the run."""


def before(job: Job, run: Run, *, listener: Listener) -> dict[str, Array]:
    """Outputs on the test part of all that the model is measured against, before it is trained.

    Kept in the run, so that a resumed run measures against the same.
    """
    path = run.folder / "predictions" / "before.safetensors"
    if path.exists():
        return dict(load_file(path))
    evaluation, task = job.resolved.recipe.evaluation, job.task
    parts = job.data.prepared.parts
    train_gold, kind, width = task.gold(parts["train"]), task.kind, task.outputs
    held = job.tokens["test"]
    model, layout, budget = job.loaded.model, job.loaded.layout, evaluation.max_tokens
    model.to(job.host.device)  # type: ignore[arg-type]
    found: dict[str, Array] = {}
    for name in job.resolved.inferred.get("evaluation.baselines", evaluation.baselines):
        listener(Stage("baseline", METHODS[name]))
        if hasattr(task, "baseline"):
            found[name] = task.baseline(name, parts["train"], parts["test"])
        elif name == "majority":
            found[name] = baselines.majority(train_gold, len(held), kind=kind, outputs=width)
        elif name == "tfidf":
            found[name] = baselines.tfidf(job.data.texts("train"), train_gold, job.data.texts("test"), kind=kind, outputs=width)
        elif name == "overlap":
            asked = parts["test"]
            found[name] = task.spanned(asked, baselines.overlap([r.pair or "" for r in asked], [r.text for r in asked]))
        elif name == "copy":
            figures = written.figures(job, "test", task.questions(written.rows_of(job, "test")))
            found |= {} if figures is None else {"copy.written": figures}
        else:
            vectors = [embeddings(model, tokens, layout, max_tokens=budget) for tokens in (job.tokens["train"], held)]
            found[name] = baselines.frozen(vectors[0], train_gold, vectors[1], kind=kind, outputs=width)
    if evaluation.base_model and job.source is not None:
        listener(Stage("baseline", METHODS["base"]))
        found["base"] = outputs(model, held, layout, answer=task.answer(layout), max_tokens=budget, combine=combining(task, parts["test"]))
        texts = written.write(job, "test")
        write_jsonl(run.folder / "predictions" / "before.jsonl", [{"text": t} for t in texts])
        figures = written.figures(job, "test", texts)
        if figures is not None:
            found["base.written"] = figures
    if job.source is not None:
        found |= {f"{PROBE}{name}": values for name, values in probes.measure(job).items()}
    found = {name: np.ascontiguousarray(value, dtype=np.float64) for name, value in found.items()}
    write_atomic(path, lambda p: save_file(found, p))
    return found


def after(job: Job, run: Run, measured: dict[str, Array], *, listener: Listener) -> dict[str, dict[str, Score]]:
    """Save the model, score it and everything it is measured against, and write the report."""
    evaluation, task, test = job.resolved.recipe.evaluation, job.task, job.data.prepared.parts["test"]
    listener(Stage("evaluate", f"{len(test)} test rows"))
    layout = job.loaded.layout
    answers = outputs(
        job.loaded.model, job.tokens["test"], layout, answer=task.answer(layout), max_tokens=evaluation.max_tokens,
        combine=combining(task, test),
    )  # fmt: skip
    gold = task.gold(test)
    everything = {name: measured[name] for name in METHODS if name in measured} | {"model": answers}
    strata = task.strata(gold) if hasattr(task, "strata") else None
    times = evaluation.bootstrap
    scores = {n: with_intervals(task.scores, gold, values, resamples=times, strata=strata) for n, values in everything.items()}
    texts = written.write(job, "test")
    figures = {name: measured.get(f"{name}.written") for name in METHODS} | {"model": written.figures(job, "test", texts)}
    for name, lines in figures.items():
        if lines is not None:
            scores[name] = scores.get(name, {}) | written.scores_with_intervals(job, lines)
    scores = {name: scores[name] for name in METHODS if name in scores}
    said_before = [r["text"] for r in run.lines("predictions/before.jsonl")]
    write_jsonl(run.folder / "predictions" / "samples.jsonl", written.samples(job, said_before, texts))
    state = {
        "task": job.resolved.recipe.task.model_dump(mode="json"),
        "state": task.state(),
        "max_length": job.plan.max_length,
        "text": job.resolved.recipe.data.text,
        "text_pair": job.resolved.recipe.data.text_pair,
        "head": job.resolved.recipe.model.head,
    }
    elsewhere = probes.scored(job, {n.removeprefix(PROBE): v for n, v in measured.items() if n.startswith(PROBE)})
    facts = {
        "metric": job.plan.metric,
        "test_rows": len(test),
        "written_rows": written.answered(job),
        "own_scores": written.own_names(job),
        "mains": [f"{n}.{main}" for n, main in getattr(task, "mains", {}).items()],
        "methods": scores,
        "probes": elsewhere,
        "stages": stages.matrix(run.lines(stages.FILE)),
    }
    write_json(run.folder / "scores.json", facts)
    write_jsonl(run.folder / "predictions" / "test.jsonl", _predictions(job, gold, answers, texts))
    kept = {"outputs": np.ascontiguousarray(answers), "gold": np.ascontiguousarray(gold)}
    if texts and figures["model"] is not None:
        kept |= {"written": np.ascontiguousarray(figures["model"]), "written_rows": np.array(written.places_of(job, "test"))}
    write_atomic(run.folder / "predictions" / "test.safetensors", lambda p: save_file(kept, p))
    _save_model(job, run, state)
    write_jsonl(run.folder / "data" / "quarantine.jsonl", [q._asdict() for q in job.data.prepared.quarantined])
    if len(mixed := _mixed(job, run)) > 1:
        run.record(streams=mixed)
    best = scores["model"][job.plan.metric]
    failed = probes.failures(evaluation.fail_if, elsewhere)
    run.record(
        score={"metric": job.plan.metric, **best},
        weights_sha256={p.name: sha256(p) for p in sorted(run.model.glob("*.safetensors"))},
        good=not failed,
        failed=failed,
    )
    write_text(run.model / "README.md", model_card(run, scores=scores, metric=job.plan.metric, labels=list(task.labels)))
    if policy.rolls(task):
        for sign in signs(run.lines("log.jsonl")):
            listener(Note(sign))
    write_text(run.report, render(_story(job, run), task=task, gold=gold, outputs=answers, records=test))
    return scores


def _mixed(job: Job, run: Run) -> dict[str, dict[str, float]]:
    """How many examples of each stream were trained on, repeats counted, and their share."""
    training, tokens = job.resolved.recipe.training, job.tokens["train"]
    streams = job.data.streams(range(len(tokens)) if tokens.owner is None else tokens.owner.tolist())
    size = training.batch_size * training.gradient_accumulation
    found = taken(job.course, streams, size=size, updates=run.facts["progress"]["step"])
    return {name: {"examples": n, "share": n / max(1, sum(found.values()))} for name, n in found.items()}


def _save_model(job: Job, run: Run, state: dict[str, Any]) -> None:
    """Write the model folder whole or not at all."""
    temporary = run.folder / ".model.part"
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        beside = job.task.files(job.loaded.trunk.config, job.plan.max_length) if hasattr(job.task, "files") else {}
        save(job.loaded, temporary, task=state, base=_base_of(job, run), files=beside)
        shutil.rmtree(run.model, ignore_errors=True)
        temporary.rename(run.model)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise SpaceError(
            f"the model could not be written: {error}", where=str(run.folder), remedy="free some space, then resume"
        ) from error


def _base_of(job: Job, run: Run) -> dict[str, Any]:
    """What a run's adapters stand on."""
    base = job.loaded.base
    if base is None:
        return {}
    own = job.source is not None and base.location != job.source.location  # adapters that are trained further stand on another model
    digests = fingerprint(base, job.loaded.commit) if own else run.facts["base"]
    return {"name": base.name, "layers": job.resolved.recipe.model.layers, **digests, **quantize.facts(job.loaded)}


def _story(job: Job, run: Run) -> Story:
    log, evaluations, samples = (run.lines(name) for name in ("log.jsonl", "evaluations.jsonl", "predictions/samples.jsonl"))
    return Story(run.id, run.facts, run.scores, log, evaluations, job.resolved.values(), samples)


def _predictions(job: Job, gold: NDArray[Any], answers: Array, texts: Sequence[str]) -> list[dict[str, Any]]:
    records, losses = job.data.prepared.parts["test"], job.task.row_loss(gold, answers)
    found = [
        {"file": r.file, "line": r.line, "text": r.text[:LONGEST], "text_pair": r.pair, "key": r.key, **d, "error": float(e)}
        for r, d, e in zip(records, job.task.predictions(records, answers), losses, strict=True)
    ]
    if job.task.answers:
        for place, text in zip(written.places_of(job, "test"), texts, strict=True):
            found[place]["written"] = text
    return found
