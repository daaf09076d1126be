"""What a training did elsewhere: other texts, on which the model is scored before and after.

Enters: the probe files of a recipe, read as the training files are; a page of plain English that ships with Luthier; the
test rows of the run that training starts from. Leaves: the scores on each before and after, their differences on the same
rows, and which of them got worse by more than the recipe allows.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.data.origin import located
from luthier.data.prepare import Record
from luthier.data.rows import read
from luthier.data.sources.opened import archive_of
from luthier.data.tokens import Tokens, cache_folder
from luthier.errors import DataError, Fault, ModelError, RecipeError
from luthier.evaluation.compare import paired
from luthier.evaluation.intervals import Score, Scorer, with_intervals
from luthier.inference.fill import pseudo_figures
from luthier.inference.predict import combining, outputs
from luthier.models.batch import collate
from luthier.models.config import AUTO
from luthier.models.forward import place_logits, trunk_of
from luthier.models.heads import Head
from luthier.models.load import friendly, quiet
from luthier.recipe.limit import EARLIER, GENERAL, limit
from luthier.recipe.sections import Data
from luthier.registry import TASK_OPTIONS, TASKS, nearest
from luthier.security.artifacts import sha256
from luthier.tasks.metrics import LOWER_IS_BETTER
from luthier.workflow.lineage import Tested, tested

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.recipe import Resolved
    from luthier.runs.store import Run
    from luthier.workflow.build import Job
    from luthier.workflow.dataset import Dataset

Array = NDArray[np.float64]
ROWS = 300
"""Rows of a probe that are looked at, drawn with the seed."""
GENERAL_TEXT = Path(__file__).parent.parent / "starters" / "general.txt"
SPARE = 2
"""Where every token is hidden in turn, only every so many paragraphs of the general text are read."""


@dataclass(frozen=True)
class Probe:
    """Rows that are scored again and again: `figures` are those of the model as it is, (rows, width)."""

    gold: NDArray[Any]
    scores: Scorer
    metric: str
    """The score by which it is judged."""
    figures: Callable[[], Array]

    def loss(self) -> float:
        """The mean loss of the model as it is."""
        return self.scores(self.gold, self.figures())["loss"]


@dataclass(frozen=True)
class Probes:
    """All probes of a run by name, the hashes of their files, and what is to be said about those left out."""

    probes: dict[str, Probe]
    hashes: dict[str, str]
    notes: list[str]


def read_probes(resolved: Resolved, data: Dataset, loaded: Loaded, *, metric: str, max_length: int, origin: Run | None) -> Probes:
    """Every probe. Raises DataError for a file without a usable row, RecipeError for a limit that no probe can meet."""
    task, evaluation = data.task, resolved.recipe.evaluation
    reading = _Reading(loaded, max_length, evaluation.max_tokens, resolved.recipe.training.seed)
    found: dict[str, Probe] = {}
    hashes: dict[str, str] = {}
    notes: list[str] = []
    for name, file in evaluation.probes.items():
        records, digests = read_records([file], resolved, task)
        hashes |= digests
        found[name] = reading.of_task(task, records, metric, where=f"evaluation.probes.{name}")
    if evaluation.general_probe is not False and loaded.base is not None:
        general = reading.general()
        if isinstance(general, Probe):
            found[GENERAL] = general
        elif evaluation.general_probe is True:
            raise ModelError(f"plain text cannot be scored: {general}", where="evaluation.general_probe", remedy="set it to auto or false")
        else:
            notes.append(f"no general probe: {general}")
    if evaluation.earlier_probe and origin is not None:
        rows = tested(origin, data)
        if isinstance(rows, Tested):
            found[f"{EARLIER}{origin.id}"] = reading.of_task(rows.task, rows.records, metric, where="evaluation.earlier_probe")
        else:
            notes.append(f"no probe of the earlier run {origin.id}: {rows}")
    _check_limits(evaluation.fail_if, found, new=loaded.base is None)
    return Probes(found, hashes, notes)


def read_records(files: Sequence[str], resolved: Resolved, task: Any) -> tuple[list[Record], dict[str, str]]:
    """The usable rows of files beside the recipe, read as the training files are, and the files' hashes."""
    data = resolved.recipe.data
    beside = data.model_copy(update={"name": None, "sample": False})  # not in the data set that the recipe may name
    paths = [p for file in files for p in located(file, beside, folder=resolved.folder)]
    rows = [r for p in paths for r in read(p, encoding=data.encoding, columns=data.columns, separator=data.separator, text=data.text).rows]
    records = [r for row in rows if isinstance(r := task.record(row), Record)]
    return records, {str(archive_of(p)): sha256(archive_of(p)) for p in paths}


def drawn(records: list[Record], count: int, seed: int) -> list[Record]:
    """At most so many of them."""
    return random.Random(seed).sample(records, count) if len(records) > count else records


def laid_out(records: list[Record], task: Any, loaded: Loaded, *, max_length: int, where: str) -> tuple[list[Record], Tokens]:
    """The records that have tokens, and their tokens. Raises DataError where none has."""
    encoded = task.encode(records, loaded.tokenizer, config=loaded.model.config, max_length=max_length, cache=cache_folder())
    records = [r for i, r in enumerate(records) if i not in encoded.rejected]
    if not records:
        raise DataError("no usable rows", where=where, remedy="it needs the columns of the training files")
    return records, loaded.lay(encoded.tokens)


@dataclass(frozen=True)
class _Reading:
    """How probes are made for one model."""

    loaded: Loaded
    max_length: int
    max_tokens: int
    seed: int

    def of_task(self, task: Any, records: list[Record], metric: str, *, where: str) -> Probe:
        """Rows of the run's own kind, judged by the run's metric where rows alone give it."""
        records, tokens = laid_out(drawn(records, ROWS, self.seed), task, self.loaded, max_length=self.max_length, where=where)
        layout = self.loaded.layout
        answer, combine = task.answer(layout), combining(task, records)

        def figures() -> Array:
            return outputs(self.loaded.model, tokens, layout, answer=answer, max_tokens=self.max_tokens, combine=combine)

        gold, scores = task.gold(records), getattr(task, "elsewhere", task.scores)
        known = scores(gold, np.zeros((len(gold), task.outputs)))
        return Probe(gold, scores, next((m for m in (metric, task.metric) if m in known), "loss"), figures)

    def general(self) -> Probe | str:
        """Plain English, as far as this model can score it; or why it cannot."""
        texts = [t.strip() for t in GENERAL_TEXT.read_text(encoding="utf-8").split("\n\n")]
        kind = self.loaded.head.kind
        if kind == "causal":
            causal = TASKS.load("causal")(TASK_OPTIONS.load("causal")(), Data(train=[GENERAL_TEXT.name]))
            records = [Record(t, None, None, str(GENERAL_TEXT), i) for i, t in enumerate(texts, 1)]
            return self.of_task(causal, records, "loss", where="evaluation.general_probe")
        if kind == "pairs":
            return "an encoder-decoder answers texts, and gives plain ones no score"
        reader = self.loaded if kind == "masked" else _reader(self.loaded)
        if isinstance(reader, str):
            return reader
        return Probe(
            np.zeros(len(texts[::SPARE])),
            _pseudo,
            "loss",
            lambda: pseudo_figures(reader, texts[::SPARE], max_tokens=self.max_tokens),
        )


def _pseudo(gold: NDArray[Any], figures: Array) -> dict[str, float]:
    """Nats a token, each hidden in turn (Salazar et al. 2020), and the pseudo-perplexity."""
    nats, tokens = figures.sum(axis=0)
    loss = nats / max(tokens, 1.0)
    return {"loss": loss, "pseudo_perplexity": math.exp(min(loss, 700.0))}


def _reader(loaded: Loaded) -> Loaded | str:
    """The model's trunk below the fill-in head of its files, which stays as it is there; or why there is none."""
    base, config = loaded.base, loaded.trunk.config
    assert base is not None, "a model that was loaded"
    if type(config) not in AUTO["masked"]._model_mapping or loaded.tokenizer.mask_token_id is None:
        return f"a {config.model_type} model under a head of its own fills in no words"
    with friendly(base), quiet():
        found, info = AUTO["masked"].from_pretrained(
            base.location,
            revision=base.revision,
            trust_remote_code=False,
            use_safetensors=True,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,
            output_loading_info=True,
        )
    if info["missing_keys"] or info.get("mismatched_keys"):
        return "the model's files bring no fill-in head"
    trunk = trunk_of(loaded.model)
    setattr(found, found.base_model_prefix, trunk)
    for head in (c for c in found.children() if c is not trunk and any(True for _ in c.parameters())):
        head.register_forward_pre_hook(_where_weights_are)
    reader = replace(loaded, model=found, head=Head("masked"))
    batch = collate([{"input_ids": [loaded.tokenizer.mask_token_id] * 3}], types=loaded.layout.token_types)
    try:
        with torch.no_grad():
            place_logits(found, batch.to(next(trunk.parameters()).device), loaded.layout, torch.tensor([1]))
    except (TypeError, ValueError, RuntimeError, AttributeError, IndexError) as error:  # any architecture may fail in its own way
        return f"its fill-in head does not fit here: {type(error).__name__}: {str(error).splitlines()[0][:120]}"
    return reader


def _where_weights_are(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook: the head follows the states to their device, and they take its precision."""
    states = inputs[0]
    module.to(states.device)
    return (states.to(next(module.parameters()).dtype), *inputs[1:])


def measure(job: Job) -> Mapping[str, Array]:
    """The model's figures on each probe, (rows, width)."""
    return {name: probe.figures() for name, probe in job.probes.items()}


def scored(job: Job, before: Mapping[str, Array]) -> dict[str, dict[str, Any]]:
    """For each probe its metric, rows, scores before (where `before` has its figures) and after, and their differences."""
    resamples = job.resolved.recipe.evaluation.bootstrap
    found: dict[str, dict[str, Any]] = {}
    for name, after in measure(job).items():
        probe = job.probes[name]
        sides = {"base": before[name], "model": after} if name in before else {"model": after}
        found[name] = {"metric": probe.metric, "rows": len(probe.gold)}
        found[name] |= {s: with_intervals(probe.scores, probe.gold, v, resamples=resamples) for s, v in sides.items()}
        if name in before:
            draw = np.random.default_rng(0)
            changes = paired(probe.scores, probe.gold, before[name], after, resamples=resamples, draw=draw)
            found[name]["difference"] = {n: Score(value=v, low=a, high=b, n=len(probe.gold)) for n, (v, a, b) in changes.items()}
    return found


def _check_limits(limits: Mapping[str, str], probes: Mapping[str, Probe], *, new: bool) -> None:
    """Raise RecipeError for limits on probes that are not there, or that no training could break."""
    faults = []
    for name, text in limits.items():
        where = f"evaluation.fail_if.{name}"
        if new:
            faults.append(Fault("a new model has no scores from before to compare with", where, "take it out"))
        elif name not in probes:
            guess = nearest(name, probes)
            remedy = f"did you mean {guess}?" if guess else f"there are: {', '.join(probes) or 'none'}"
            faults.append(Fault(f"there is no probe {name!r} in this run", where, remedy))
        elif limit(text).direction == "rise" and probes[name].metric not in LOWER_IS_BETTER:
            faults.append(Fault(f"{probes[name].metric} is better when high: a rise is no failure", where, "write `drop > ...`"))
    if faults:
        raise RecipeError(faults)


def failures(limits: Mapping[str, str], probes: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The probes that got worse by more than their limits: each with its scores, the change for the worse, and the limit."""
    found = []
    for name, text in limits.items():
        metric, change = probes[name]["metric"], probes[name]["difference"][probes[name]["metric"]]
        worse = change["value"] if metric in LOWER_IS_BETTER else -change["value"]
        if not worse <= limit(text).most:  # a figure that is no number fails too
            sides = {side: probes[name][key][metric]["value"] for side, key in (("before", "base"), ("after", "model"))}
            found.append({"probe": name, "metric": metric, **sides, "worse_by": worse, "limit": str(limit(text))})
    return found
