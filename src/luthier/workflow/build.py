"""Recipe to everything training needs: the second stage.

Enters: a resolved recipe and its data set. Leaves: a `Job`: host, model, token ids of every part and
the plan. Everything that can fail before training fails here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from luthier.data.drift import sentences
from luthier.data.prepare import quarantine
from luthier.data.split import Part
from luthier.data.tokens import Tokens, cache_folder
from luthier.errors import Fault, ModelError, RecipeError
from luthier.models import host as machine
from luthier.models import load as loading
from luthier.models import quantize
from luthier.models.adapters import saved
from luthier.models.adapters.merging import merge
from luthier.models.adapters.method import Method, count, describe
from luthier.models.host import Host
from luthier.models.load import Loaded
from luthier.models.scratch import create
from luthier.models.source import Source, resolve
from luthier.models.trunk import Trunk
from luthier.recipe import Resolved
from luthier.recipe.sections import Model
from luthier.registry import METHODS, nearest
from luthier.retention.retention import Retention, Start
from luthier.runs.store import Run
from luthier.training.curriculum import Course
from luthier.workflow import earlier, policy, retain, xray
from luthier.workflow.dataset import Dataset, dataset
from luthier.workflow.events import Listener, Note, Stage, silent
from luthier.workflow.frozen import plan_trunk
from luthier.workflow.lineage import name_its_model
from luthier.workflow.plan import Plan, infer_from_data, plan
from luthier.workflow.probes import Probe, read_probes

MUCH_UNKNOWN = 0.05


@dataclass
class Job:
    """All that training, evaluation and the record share."""

    resolved: Resolved
    data: Dataset
    host: Host
    source: Source | None
    loaded: Loaded
    tokens: dict[Part, Tokens]
    plan: Plan
    notes: list[str]
    probes: dict[str, Probe]
    method: Method
    course: Course
    retention: Retention
    start: Start
    """What retention is given when training begins."""
    origin: Run | None = None
    """The run whose model is trained further."""
    trunk: Trunk | None = None
    """Frozen layers whose output is kept."""
    drift: dict[str, Any] | None = None
    """How the new data differ from those of the run that goes on."""

    @property
    def task(self) -> Any:
        return self.data.task

    def facts(self) -> dict[str, Any]:
        """What is fixed before the first update, for the run's record."""
        free, total = count(self.loaded.model)
        recipe = self.resolved.recipe
        return {
            "task": f"{self.task.name}/{self.task.kind}",
            "model": self.source.name if self.source else f"a new {self.loaded.model.config.model_type}",
            "method": self.method.name,
            "retention": self.retention.name,
            "parameters": total,
            "trainable": free,
            "layout": {"kind": self.loaded.layout.kind, "reason": self.loaded.layout.reason, "pooling": self.loaded.layout.pooling},
            "plan": vars(self.plan),
            "sources": self.resolved.sources,
            "inferred": self.resolved.inferred,
            "data": {
                "files": self.data.prepared.files,
                "summary": self.data.prepared.summary,
                "license": recipe.data.license,
                "source": recipe.data.origin or recipe.data.name,
            },
            "tokens": {part: {"rows": len(t), "tokens": sum(t.lengths()), "truncated": t.truncated} for part, t in self.tokens.items()},
            "host": self.host.facts(),
            "notes": self.notes,
            **({} if self.drift is None else {"drift": self.drift}),
            **({"judges": judges} if (judges := getattr(self.task, "judges", None)) else {}),
        }


def build(resolved: Resolved, *, listener: Listener = silent) -> Job:
    """Read data, load the model, tokenise, and decide every `auto`."""
    recipe = resolved.recipe
    origin = name_its_model(resolved)
    section = _section(resolved)
    source = resolve(recipe.model, folder=resolved.folder) if recipe.model.from_scratch is None else None
    listener(Stage("data", ", ".join(recipe.data.train)))
    data = dataset(resolved)
    infer_from_data(resolved, data)
    policy.equip(data.task, folder=resolved.folder, listener=listener)
    host = machine.set_up(device=recipe.training.device, threads=recipe.training.threads, precision=recipe.training.precision)
    scratch = recipe.model.from_scratch
    listener(Stage("model", f"a new {scratch.architecture}" if scratch else source.name if source else ""))
    if scratch is not None:
        texts = data.task.corpus(data.prepared.parts["train"])
        loaded = create(
            scratch,
            texts,
            head=data.task.head,
            attention=recipe.training.attention,
            dropout=recipe.model.dropout,
            seed=recipe.training.seed,
            cache=cache_folder(),
        )
    else:
        assert source is not None, "a model that is not new has a source"
        loaded = loading.load(
            source,
            section,
            head=data.task.head,
            attention=recipe.training.attention,
            seed=recipe.training.seed,
            precision=recipe.training.precision,
        )
    if loaded.fresh_head:
        data.task.start(loaded.model)
    elif loaded.grown is not None:
        loaded.notes.append(str(loaded.grown))
        data.task.start(loaded.model, rows=list(loaded.grown.new.values()))
    method = _method(resolved, loaded)
    if hasattr(data.task, "extend"):
        data.task.extend(loaded.model)
    listener(Stage("method", describe(method, loaded)))
    listener(Stage("tokens"))
    tokens, limit = _tokens(resolved, data, loaded)
    longest = max(max(t.lengths(), default=0) for t in tokens.values())
    config = loaded.model.config.get_text_config()
    decided, course = plan(
        resolved,
        data,
        streams=data.streams(range(len(tokens["train"])) if tokens["train"].owner is None else tokens["train"].owner.tolist()),
        hidden_size=config.hidden_size,
        longest_model=limit,
        longest_text=longest,
        rate_factor=method.rate_factor,
        fastest=method.fastest,
    )
    _check_metric(data, decided.metric, written=recipe.evaluation.written)
    trunk = plan_trunk(method, loaded, data.task, decided, tokens)
    way, start, replayed = retain.prepare(resolved, data.task, loaded, method, max_length=decided.max_length)
    probes = read_probes(resolved, data, loaded, metric=decided.metric, max_length=decided.max_length, origin=origin)
    data.prepared.files.update(probes.hashes | replayed)
    drift = earlier.differences(data, seed=recipe.training.seed)
    notes = [*data.prepared.notes, *(sentences(drift) if drift else []), *loaded.notes, *_token_notes(tokens, decided.max_length)]
    notes += [*_unknown_note(tokens, loaded), *probes.notes]
    if hasattr(data.task, "cautions"):
        notes += data.task.cautions(tokens["train"], recipe.training)
    if loaded.layout.kind == "padded":
        notes.append(f"batches are padded: {loaded.layout.reason}")
    for text in notes:
        listener(Note(text))
    return Job(
        resolved, data, host, source, loaded, tokens, decided, notes, probes.probes, method, course, way, start, origin, trunk, drift
    )  # fmt: skip


def _section(resolved: Resolved) -> Model:
    """The model section with the quantisation that the method implies. Raises ModelError where it cannot be."""
    recipe = resolved.recipe
    section, kind = recipe.model, recipe.method.type
    if kind == "qlora" and section.quantization == "none":
        section = section.model_copy(update={"quantization": "4bit"})
        resolved.infer("model.quantization", "4bit", "method qlora")
    quantize.refuse(section, adapter=METHODS.load(kind).adapter, method=kind)
    return section


def _method(resolved: Resolved, loaded: Loaded) -> Method:
    """The method, applied: from here on the right weights are free to move."""
    options, training = resolved.recipe.method, resolved.recipe.training
    method: Method = METHODS.load(options.type)(options, seed=training.seed)
    if method.adapter and loaded.base is None:
        raise ModelError(
            f"{method.name} is for a model that has learned: a new one would stay at random", where="method", remedy="set method: full"
        )
    if saved.has_adapter(loaded) and not (method.adapter and method.goes_on(loaded)):
        if method.adapter:
            raise ModelError(
                f"the model carries adapters, and {method.name} would put others on top",
                where="method",
                remedy="merge them first (luthier merge), or go on with the method that made them",
            )
        if loaded.quantization != "none":
            raise ModelError(
                "the model's adapters were trained on a quantised base, and cannot be merged into that",
                where="model.name",
                remedy="merge them into the whole base first (luthier merge), and train what that writes",
            )
        merge(loaded)
        loaded.notes.append("the model's adapters are merged into its weights first")
    method.apply(loaded)
    return method


def _tokens(resolved: Resolved, data: Dataset, loaded: Loaded) -> tuple[dict[Part, Tokens], int]:
    """Every part in token ids; rows that cannot be laid out go to quarantine."""
    wanted = resolved.recipe.model.max_length
    limit = loaded.max_length
    if wanted != "auto" and wanted > limit:
        raise ModelError(f"takes at most {limit} tokens, not {wanted}", where="model.max_length", remedy=f"set it to {limit} or auto")
    length = limit if wanted == "auto" else wanted
    tokens: dict[Part, Tokens] = {}
    for part, records in data.prepared.parts.items():
        encoded = data.task.encode(
            records, loaded.tokenizer, config=loaded.model.config, max_length=length, cache=cache_folder(), train=part == "train"
        )
        if part == "train":
            found = xray.findings(data.task, encoded, loaded.tokenizer, loaded.model.config)
            loaded.notes += xray.refuse(found, resolved.recipe.data.accept, shown=xray.samples(encoded.tokens, loaded.tokenizer))
        quarantine(data.prepared, part, encoded.rejected, most=resolved.recipe.data.max_bad_share)
        tokens[part] = loaded.lay(encoded.tokens)
    return tokens, limit


def _token_notes(tokens: dict[Part, Tokens], max_length: int) -> list[str]:
    cut = {part: t for part, t in tokens.items() if t.truncated}
    return [
        f"{t.truncated} of {len(t)} {part} texts ({t.truncated / len(t):.1%}) are cut to {max_length} tokens" for part, t in cut.items()
    ]


def _unknown_note(tokens: dict[Part, Tokens], loaded: Loaded) -> list[str]:
    """A note where the tokenizer does not know many words: it may not be the model's own."""
    unknown = loaded.tokenizer.unk_token_id
    share = tokens["train"].share_of(unknown) if unknown is not None else 0.0
    if share <= MUCH_UNKNOWN:
        return []
    return [f"{share:.0%} of the training tokens are unknown to the tokenizer: is it the model's own, and for this language?"]


def _check_metric(data: Dataset, metric: str, *, written: int) -> None:
    """Refuse a metric that the task does not score, or that needs answers where none are written."""
    if not written and data.prepared.parts["validation"] and metric in data.task.text_score_names():
        remedy = "set it to the rows that should be answered, or evaluation.metric to another score"
        raise RecipeError(
            [Fault(f"is 0, and {metric}, which chooses the best weights, is of written answers", "evaluation.written", remedy)]
        )
    gold = data.task.gold(data.prepared.parts["test"])
    names = [*data.task.scores(gold, np.zeros((len(gold), data.task.outputs))), *data.task.text_score_names()]
    if metric not in names:
        guess = nearest(metric, names)
        remedy = f"did you mean {guess}?" if guess else f"one of: {', '.join(names)}"
        raise RecipeError([Fault(f"{data.task.kind} has no score {metric!r}", "evaluation.metric", remedy)])
