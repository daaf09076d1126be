"""A recipe as a script of its own, in plain PyTorch or with transformers' Trainer, that trains without Luthier.

Enters: a resolved recipe. Leaves: a script, and a folder beside it with what the script reads: the examples in
token ids, the config and tokenizer, the weights that were drawn at random. The script replays the order of the
rows, the rates, the clipping and the weighing, so that its losses are those of the run.
"""

from __future__ import annotations

import copy
import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jinja2
import torch

from luthier.data.split import Part
from luthier.errors import Fault, ModelError, RecipeError, SpaceError
from luthier.models.config import AUTO, is_decoder
from luthier.models.load import quiet
from luthier.models.source import is_adapter
from luthier.recipe import Recipe, Resolved
from luthier.security.artifacts import write_jsonl, write_text
from luthier.workflow.build import Job, build
from luthier.workflow.events import Listener, silent

TEMPLATES = Path(__file__).parent / "ejected"
METHODS = ("full", "lora", "freeze", "bitfit", "norms")
TASKS = ("classification", "causal", "chat", "text2text")
"""Methods that a short script can show."""
LISTED = ("freeze", "bitfit", "norms")
"""Methods that are nothing but a list of the weights that move."""
LORA_FIELDS = ("task_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "use_dora", "rank_pattern", "alpha_pattern")
KNOWN = {
    "model": {"name", "from_scratch", "revision", "layers", "dropout", "head", "max_length", "quantization", "double_quantization"},
    "training": {
        "epochs", "max_steps", "batch_size", "gradient_accumulation", "max_tokens", "learning_rate", "schedule", "warmup", "weight_decay",
        "betas", "epsilon", "max_grad_norm", "early_stopping", "plateau_factor", "plateau_patience", "gap_warning", "precision",
        "attention", "device", "threads", "seed", "checkpointing", "rehearsal",
    },
}  # fmt: skip
"""Fields that a script honours, or that do not change an update. One that is set and not known here is refused."""
SECTIONS = {"data", "task", "model", "method", "training", "evaluation", "checkpoints", "output"}

Level = Literal["pytorch", "transformers"]


@dataclass(frozen=True)
class Ejected:
    """What was written; `exact` says whether the script's losses are the run's to rounding, else there is dropout."""

    script: Path
    files: Path
    updates: int
    exact: bool


def eject(resolved: Resolved, *, level: Level, script: Path, listener: Listener = silent) -> Ejected:
    """Write the script and its folder.

    Raises RecipeError for what a script cannot show, with the reason, and SpaceError where something is there already.
    """
    script = script.resolve()
    files, out = script.with_name(f"{script.stem}_files"), script.with_name(f"{script.stem}_model")
    for path in (script, files):
        if path.exists():
            raise SpaceError("is there already", where=str(path), remedy="give another file with --out")
    faults = list(refusals(resolved.recipe))
    if faults:
        raise RecipeError(faults)
    job = build(resolved, listener=listener)
    _refuse_built(job)
    temporary = script.with_name(f".{files.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        start = _write(job, temporary)
        temporary.rename(files)
    except OSError as error:
        raise SpaceError(f"cannot be written: {error.strerror}", where=str(files), remedy="give another file with --out") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    exact = not _dropout(job)
    write_text(script, _render(job, level=level, files=files.name, out=out.name, starts=bool(start), exact=exact))
    return Ejected(script, files, job.plan.total_updates, exact)


def refusals(recipe: Recipe) -> Iterator[Fault]:
    """Why a recipe cannot be shown as a script."""
    options: Any = recipe.method
    if recipe.task.type == "masked":
        yield Fault("hides other words in each epoch, drawn by Luthier", "task.type", f"eject {', '.join(TASKS)}")
    elif recipe.task.type not in TASKS:
        yield Fault("is not known to eject", "task.type", f"eject one of {', '.join(TASKS)}")
    if options.type not in METHODS:
        yield Fault(f"{options.type} needs code of Luthier's around each update", "method", f"eject one of {', '.join(METHODS)}")
    if options.type == "lora" and options.init in ("pissa", "olora"):
        yield Fault(f"{options.init} takes the adapters' share out of the base weights first", "method.init", "set it to default")
    if options.type == "freeze" and options.unfreeze is not None:
        yield Fault("other weights move as training goes on", "method.unfreeze", "take it out")
    if options.type == "freeze" and getattr(options, "trunk_precision", "fp32") != "fp32":
        yield Fault("rounds what the frozen layers give", "method.trunk_precision", "set it to fp32")
    if recipe.model.head != "linear":
        yield Fault("a head of another kind is not part of transformers", "model.head", "set it to linear")
    if getattr(recipe.model, "quantization", "none") != "none":
        yield Fault("quantised weights are rounded by Luthier", "model.quantization", "set it to none")
    if recipe.training.schedule == "plateau":
        yield Fault("its rate follows the validation loss", "training.schedule", "choose another schedule")
    if recipe.data.earlier is not None:
        yield Fault("brings rows back that a script does not know of", "data.earlier", "take it out")
    yield from _unknown(recipe)


def _unknown(recipe: Recipe) -> Iterator[Fault]:
    """Whatever is set that this module has not heard of."""
    for name in type(recipe).model_fields:
        section: Any = getattr(recipe, name)
        default = type(recipe).model_fields[name].get_default(call_default_factory=True)
        if name not in SECTIONS and section != default:
            yield Fault("is not known to eject", name, "take it out")
        for field, info in type(section).model_fields.items() if name in KNOWN else ():
            if field not in KNOWN[name] and getattr(section, field) != info.get_default(call_default_factory=True):
                yield Fault("is not known to eject", f"{name}.{field}", "take it out")


def _refuse_built(job: Job) -> None:
    """Raise where the model itself stands in the way."""
    if job.source is not None and job.source.local is not None and is_adapter(job.source.local):
        raise ModelError("is a folder of adapters", where="model.name", remedy="merge it first: luthier merge")
    if job.loaded.grown is not None:
        raise ModelError("its head takes other labels than it was saved with", where="model.name", remedy="train it, and eject from there")
    if job.host.dtype != torch.float32:
        raise RecipeError([Fault("bf16 rounds losses to three digits", "training.precision", "set it to fp32")])
    pad = job.loaded.layout.pad_id
    if job.loaded.head.kind == "classes" and is_decoder(job.loaded.model.config):
        ends = (e["input_ids"][-1] == pad for part in job.tokens.values() for e in part.examples())
        if any(ends):
            raise ModelError("its texts end with its pad token, where plain transformers looks a token too early", where="model.name")


def _dropout(job: Job) -> bool:
    """Whether training draws random numbers: then losses are alike, not equal."""
    rates = [v for n, v in job.loaded.model.config.get_text_config().to_dict().items() if "dropout" in n or n.endswith("pdrop")]  # type: ignore[operator]
    rates.append(getattr(job.resolved.recipe.method, "dropout", 0.0))
    return any(isinstance(r, float) and r > 0 for r in rates)


def _write(job: Job, folder: Path) -> dict[str, torch.Tensor]:
    """The examples, config, tokenizer and starting weights; returns the latter."""
    from safetensors.torch import save_file

    for part, tokens in job.tokens.items():
        targets = job.task.targets(job.data.prepared.parts[part])
        write_jsonl(folder / f"{part}.jsonl", _examples(job, part, targets))
        assert len(tokens) > 0, "no part is empty"
    config = copy.deepcopy(job.loaded.model.config)
    config._attn_implementation = None  # type: ignore[union-attr]
    with quiet():
        config.save_pretrained(folder)  # type: ignore[operator]
        job.loaded.tokenizer.save_pretrained(folder)
    start = _start(job)
    if start:
        save_file(start, folder / "start.safetensors", metadata={"format": "pt"})
    if job.method.name in LISTED:
        free = [n for n, p in job.loaded.model.named_parameters() if p.requires_grad]
        write_text(folder / "trained.json", json.dumps(free, indent=1) + "\n")
    return start


def _examples(job: Job, part: Part, targets: dict[str, torch.Tensor]) -> Iterator[dict[str, Any]]:
    """Rows of plain lists; what the model does not read is left out."""
    types = job.loaded.layout.token_types
    for index, example in enumerate(job.tokens[part].examples()):
        row = {name: values.tolist() for name, values in example.items() if name != "token_type_ids" or types}
        if types and "token_type_ids" not in row:
            row["token_type_ids"] = [0] * len(row["input_ids"])
        yield row | {name: values[index].tolist() for name, values in targets.items()}


def _start(job: Job) -> dict[str, torch.Tensor]:
    """Weights that are in no file: a new model's, fresh heads, adapters; by the names that the script's model has."""
    model = job.loaded.model
    if job.loaded.base is None:
        return {n: p.detach().cpu().contiguous() for n, p in model.named_parameters()}
    drawn = set(job.loaded.drawn)
    found = {}
    for name, parameter in model.named_parameters():
        bare = ".".join(p for p in name.split(".") if p not in ("default", "modules_to_save"))
        if bare in drawn or "lora_" in name:
            found[f"base_model.model.{name}" if job.method.adapter else name] = parameter.detach().cpu().contiguous()
    return found


def _lora(job: Job) -> dict[str, Any]:
    """The arguments of PEFT's config; empty where the method is another."""
    if not job.method.adapter:
        return {}
    config = job.loaded.trunk.peft_config["default"]
    found = {name: getattr(config, name) for name in LORA_FIELDS}
    found["target_modules"] = _shortest(job.loaded.trunk, sorted(config.target_modules))
    found["modules_to_save"] = config.modules_to_save
    return {k: v for k, v in found.items() if v not in (None, False, {}, [])}


def _shortest(model: torch.nn.Module, names: list[str]) -> list[str]:
    """Ends of names below the layers' numbers where they mean the same modules, else the names themselves."""
    ends = sorted({re.sub(r".*\.\d+\.", "", n) for n in names})
    modules = [n.removesuffix(".base_layer") for n, m in model.named_modules() if hasattr(m, "weight")]
    meant = {n for n in modules if any(n == e or n.endswith(f".{e}") for e in ends)}
    return ends if meant == set(names) else names


def _literal(value: Any) -> str:
    """A value as Python, as a formatter would write it."""
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_literal(k)}: {_literal(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list):
        flat = ", ".join(map(_literal, value))
        return f"[{flat}]" if len(flat) < 100 else "[\n        " + ",\n        ".join(map(_literal, value)) + ",\n    ]"
    return repr(value)


def _render(job: Job, *, level: Level, files: str, out: str, starts: bool, exact: bool) -> str:
    """The script."""
    training, task, head = job.resolved.recipe.training, job.resolved.recipe.task, job.loaded.head
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # noqa: S701  (it writes Python)
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["python"] = _literal
    smoothing = float(getattr(task, "label_smoothing", 0.0))
    kind = {"causal": "tokens", "pairs": "pairs", "classes": job.task.kind}[head.kind]
    source = job.loaded.base
    text = environment.get_template(f"{level}.py.j2").render(
        name=job.resolved.name,
        model=source.name if source else f"a new {job.loaded.model.config.model_type}",
        by={"pytorch": "in plain PyTorch", "transformers": "with transformers' Trainer"}[level],
        level=level,
        files=files,
        out=out,
        begins="the weights that start at random" if starts else "nothing else",
        exactness=_exactness(exact),
        notes=_notes(job),
        auto=AUTO[head.kind].__name__,
        scratch=source is None,
        base=source.location if source else "",
        revision=(job.loaded.commit or source.revision) if source and source.local is None else None,
        seed=training.seed,
        updates=job.plan.total_updates,
        batch_size=training.batch_size,
        accumulation=training.gradient_accumulation,
        learning_rate=job.plan.learning_rate,
        weight_decay=training.weight_decay,
        betas=tuple(training.betas),
        epsilon=training.epsilon,
        max_grad_norm=training.max_grad_norm,
        schedule=training.schedule,
        warmup=training.warmup,
        pad=job.loaded.layout.pad_id,
        kind=kind,
        token_types=job.loaded.layout.token_types,
        class_weights=getattr(job.task, "class_weights", None),
        smoothing=smoothing,
        smoothing_argument=f", label_smoothing={smoothing!r}" if smoothing else "",
        z_loss=float(getattr(task, "z_loss", 0.0)),
        lora=_lora(job),
        plus_ratio=ratio if (ratio := getattr(job.resolved.recipe.method, "plus_ratio", 1.0)) != 1.0 else None,
        starts=starts,
        drawn=bool(job.loaded.drawn),
        listed=job.method.name in LISTED,
        held_out=[p for p in job.tokens if p != "train"],
    )
    compile(text, files, "exec")
    return text


def _exactness(exact: bool) -> tuple[str, ...]:
    if exact:
        return ("No dropout: on one device its losses are those of the run, to the rounding of fp32.",)
    return (
        "The model has dropout, for which every program draws its own numbers: its losses are like the run's, not equal.",
        "They are equal, to the rounding of fp32, where the recipe says model.dropout: 0 (and method.dropout: 0).",
    )


def _notes(job: Job) -> list[str]:
    """What the run does besides, between its updates."""
    recipe = job.resolved.recipe
    found = []
    if recipe.evaluation.restore_best:
        found.append(f"the run keeps the weights of its best evaluation by {job.plan.metric}; the script keeps the last")
    if recipe.training.early_stopping is not None:
        found.append("the run may stop early; the script makes every update")
    return found
