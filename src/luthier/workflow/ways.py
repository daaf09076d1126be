"""A recipe trained with every way against forgetting, side by side.

Enters: a recipe, the names of ways, and how many seeds. Leaves: a folder of runs, one a way and seed, with what each gained of
the new and lost of the old, and the way that we would choose. A comparison that was stopped goes on: runs that
are there and made by the same recipe are not made again.
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from luthier.errors import Fault, ModelError, RecipeError
from luthier.evaluation.report import ways_page
from luthier.evaluation.ways import JOINT, NAIVE, Advice, Figures, advise, summary
from luthier.recipe import Recipe, Resolved, dump, load_recipe
from luthier.registry import METHODS, RETENTION, nearest
from luthier.runs.store import Run, every
from luthier.security.artifacts import write_json, write_text
from luthier.tasks.metrics import LOWER_IS_BETTER
from luthier.workflow import stages
from luthier.workflow.events import Listener, Note, Stage, silent
from luthier.workflow.lineage import name_its_model, refuse_changed_data
from luthier.workflow.train import resume, start

IN_STAGES = (NAIVE, "replay", "l2sp", "ewc", "distill", "soup", "lora", "freeze", JOINT)
IN_ONE = (NAIVE, "l2sp", "distill", "soup", "lora", "freeze")
IN_ONWARD = (NAIVE, "replay", "l2sp", "distill", "soup", "lora", "freeze")
REFUSABLE = ("retention", "method", "curriculum")
"""Sections in which a way may be refused; the comparison then goes on without it."""


@dataclass
class Compared:
    """The comparison: figures by way, the advice, what was left out and why, and where the page is."""

    folder: Path
    figures: dict[str, list[Figures]] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)
    runs: dict[str, list[str]] = field(default_factory=dict)
    advice: Advice | None = None

    @property
    def page(self) -> Path:
        return self.folder / "ways.html"

    def summaries(self) -> dict[str, dict[str, Any]]:
        """Each way's means with their intervals over seeds."""
        return {way: summary(runs) for way, runs in self.figures.items()}


def compare(resolved: Resolved, *, ways: Sequence[str] = (), seeds: int = 1, listener: Listener = silent) -> Compared:
    """Train with every way and every seed, the naive way always among them.

    Raises RecipeError for unknown ways, and for a recipe that has nothing old: no stages, no probe.
    """
    staged = resolved.recipe.staged
    suited = IN_STAGES if staged else IN_ONWARD if resolved.recipe.data.earlier is not None else IN_ONE
    names = tuple(dict.fromkeys((NAIVE, *(ways or suited))))
    _refuse_unknown(names, replays=staged or resolved.recipe.data.earlier is not None, staged=staged)
    found = Compared((Path(resolved.recipe.output.folder).expanduser() / f"{resolved.name}-ways").resolve())
    total = len(names) * seeds
    for number in range(total):
        seed, way = resolved.recipe.training.seed + number // len(names), names[number % len(names)]
        if way in found.left_out:
            continue
        listener(Stage("way", f"{way}, seed {seed} ({number + 1} of {total})"))
        naive = [Run(found.folder / r) for r in found.runs.get(NAIVE, [])]
        try:
            run = _run(changed(resolved, way, seed=seed, naive=naive[-1] if naive else None), found.folder, listener)
        except (RecipeError, ModelError) as error:
            faults = error.faults if isinstance(error, RecipeError) else [error.fault]
            if way == NAIVE or not all(str(f.where).split(".")[0] in REFUSABLE for f in faults):
                raise
            found.left_out[way] = "; ".join(f.message for f in faults)
            listener(Note(f"{way} is left out: {found.left_out[way]}"))
        else:
            found.runs.setdefault(way, []).append(run.id)
            found.figures.setdefault(way, []).append(_staged(run, naive) if staged else _single(run))
        missing = sum(names[later % len(names)] not in found.left_out for later in range(number + 1, total))
        _write(found, resolved.name, seeds=seeds, missing=missing, alike=staged)
    return found


def _write(found: Compared, name: str, *, seeds: int, missing: int, alike: bool) -> None:
    """The page and its figures, of what has been trained so far, since a comparison takes hours; `missing` trainings are to come."""
    found.advice = advise(found.figures)
    facts = {
        "seeds": seeds, "missing": missing, "advice": asdict(found.advice), "ways": found.summaries(), "runs": found.runs,
        "left_out": found.left_out,
    }  # fmt: skip
    write_json(found.folder / "ways.json", facts)
    write_text(found.page, ways_page(name, facts, alike=alike))


def changed(resolved: Resolved, way: str, *, seed: int, naive: Run | None = None) -> Resolved:
    """The recipe with a way in place, `a+b` for two at once, and whatever it had against forgetting taken out."""
    recipe = resolved.recipe
    raw = recipe.model_dump(mode="json")
    raw["retention"], raw["training"]["seed"] = {"type": "none"}, seed
    if recipe.staged:
        raw["curriculum"] = {"type": "sequential", "order": recipe.curriculum.order}
    elif recipe.curriculum.type == "replay":  # of an earlier run's rows, which is a way too
        raw["curriculum"] = {"type": "single"}
    for one in way.split("+"):
        _put(raw, one, recipe, naive)
    found = load_recipe({k: v for k, v in raw.items() if v is not None})
    name = f"{way.replace('+', '-and-')}-seed{seed}"
    found.recipe.output.name = name
    return Resolved(found.recipe, resolved.folder, name, {p: resolved.sources.get(p, "default") for p in found.sources})


def _put(raw: dict[str, Any], way: str, recipe: Recipe, naive: Run | None) -> None:
    if way in RETENTION.names():
        raw["retention"] = recipe.retention.model_dump(mode="json") if recipe.retention.type == way else {"type": way}
    elif way in METHODS.names():
        raw["method"] = recipe.method.model_dump(mode="json") if recipe.method.type == way else {"type": way}
    elif way == "replay":
        own = recipe.curriculum.model_dump(mode="json", exclude_unset=True) if recipe.curriculum.type == "replay" else {}
        raw["curriculum"] = {**raw["curriculum"], **own, "type": "replay"}
    elif way == JOINT and naive is not None:  # each stream as often as in its stage, all of them mixed
        plan, streams = naive.facts["plan"], recipe.curriculum.order or list(recipe.task.tasks)  # type: ignore[attr-defined]
        raw["curriculum"] = {"type": "mixture", "mixing": dict(zip(streams, plan["stages"], strict=True))}
        raw["training"] |= {"epochs": plan["epochs"], "max_steps": plan["total_updates"]}


def _refuse_unknown(names: Sequence[str], *, replays: bool, staged: bool) -> None:
    known = {*RETENTION.names(), *METHODS.names(), *(("replay",) if replays else ()), *((JOINT,) if staged else ())}
    faults = []
    for name in (one for way in names for one in way.split("+")):
        if name not in known:
            guess = nearest(name, known)
            only = name in ("replay", JOINT)
            remedy = "set curriculum: sequential" if only else f"did you mean {guess}?" if guess else f"one of: {', '.join(sorted(known))}"
            faults.append(Fault(f"{name!r} is for tasks in stages" if only else f"no way {name!r}", "--ways", remedy))
    for way in names:
        sections = ["retention" if n in RETENTION.names() else "method" if n in METHODS.names() else "curriculum" for n in way.split("+")]
        if len(set(sections)) < len(sections):
            faults.append(Fault(f"{way} names two for one section of a recipe", "--ways", "compare them apart"))
    if faults:
        raise RecipeError(faults)


def _run(resolved: Resolved, root: Path, listener: Listener) -> Run:
    """The run of a recipe: the one that is there, gone on with where it was stopped, or a new one."""
    resolved.recipe.output.folder = str(root)
    name_its_model(resolved)  # as the run's own recipe has it
    text = dump(resolved.recipe)
    for run in every(root) if root.is_dir() else []:
        if run.facts["name"] == resolved.name and (run.folder / "recipe.yaml").read_text(encoding="utf-8") == text:
            refuse_changed_data(run)
            found = resume(run, listener=listener)
            break
    else:
        found = start(resolved, listener=listener)
    shutil.rmtree(found.checkpoints, ignore_errors=True)  # a finished run needs none, and there will be many
    return found


def _staged(run: Run, naive: Sequence[Run]) -> Figures:
    """Of a sequence: what tasks gained by the end of their stage, and lost from there to the end."""
    lines, seconds = run.lines(stages.FILE), run.facts["progress"]["seconds"]
    found = stages.matrix(lines)
    if not found:  # all at once: against the same start as the naive way's
        first, ends = naive[-1].lines(stages.FILE)[0], run.scores["methods"]["model"]
        mains = dict(name.rsplit(".", 1) for name in run.scores["mains"])
        sign = {n: -1.0 if n in first.get("less", ()) else 1.0 for n in first["scores"]}
        own = {n: main if f"{n}.{main}" in ends and (sign[n] < 0) == (main in LOWER_IS_BETTER) else "loss" for n, main in mains.items()}
        average = sum(sign[n] * ends[f"{n}.{own[n]}"]["value"] for n in sign) / len(sign)
        return Figures(average - sum(sign[n] * v for n, v in first["scores"].items()) / len(sign), 0.0, seconds, average)
    start, names = lines[0]["scores"], found["stages"]
    sign = {n: -1.0 if n in lines[-1].get("less", ()) else 1.0 for n in names}
    gain = sum(sign[n] * (found["scores"][n][i] - start[n]) for i, n in enumerate(names)) / len(names)
    average = sum(sign[n] * found["scores"][n][-1] for n in names) / len(names)
    return Figures(gain, -found["backward_transfer"], seconds, average, found)


def _single(run: Run) -> Figures:
    """Of one training: what its test score gained, and its probes lost on average."""
    scores = run.scores
    methods, metric, probes = scores["methods"], scores["metric"], scores["probes"]
    lost = [_better(p["metric"]) * -p["difference"][p["metric"]]["value"] for p in probes.values() if "difference" in p]
    if not lost:
        remedy = "name files under evaluation.probes, start from an earlier run, or set curriculum: sequential"
        raise RecipeError([Fault("has nothing old to lose: no stages, and no probe", "evaluation.probes", remedy)])
    before = methods["base"][metric]["value"] if metric in methods.get("base", {}) else 0.0
    gain = _better(metric) * (methods["model"][metric]["value"] - before)
    return Figures(gain, sum(lost) / len(lost), run.facts["progress"]["seconds"])


def _better(metric: str) -> float:
    """The sign of a change for the better."""
    return -1.0 if metric in LOWER_IS_BETTER else 1.0
