"""Loading a model for a task: config, weights, tokenizer and head, ready for ragged batches.

Enters: a `Source`, the `model` section and the head's width. Leaves: a `Loaded`. Everything goes
through transformers' own `from_pretrained`, never with remote code, from safetensors alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from luthier.errors import LuthierError, ModelError
from luthier.models import dropout, embedding, forward, language, quantize
from luthier.models.config import AUTO, adapt_config, is_decoder, longest, pad_token, refuse_head, set_labels
from luthier.models.forward import Layout
from luthier.models.grow import Grown, as_saved, grow, known_labels
from luthier.models.heads import Head, PooledModel, build_head
from luthier.models.quantize import Precision
from luthier.models.source import NAMES, Source, base_facts, base_of, card_labels, is_adapter, refuse_code
from luthier.registry import nearest

if TYPE_CHECKING:
    from luthier.data.tokens import Tokens
    from luthier.recipe.sections import Model

CLASSES = Head("classes")


@dataclass
class Loaded:
    """A model with its tokenizer and the way batches reach it."""

    model: PreTrainedModel | PooledModel
    tokenizer: PreTrainedTokenizerBase
    layout: Layout
    max_length: int
    commit: str | None
    fresh_head: bool
    notes: list[str]
    head: Head
    drawn: list[str] = field(default_factory=list)
    """Parameters that are in no file and start at random."""
    base: Source | None = None
    """Where the weights came from; None for a model from nothing."""
    quantization: str = "none"
    begun: dict[str, torch.Tensor] = field(default_factory=dict)
    """How adapters began that took their share out of the base weights."""
    virtual: tuple[int, ...] = ()
    """Ids of learned tokens that stand before each text."""
    grown: Grown | None = None
    """What became of a head that had learned other labels."""

    @property
    def trunk(self) -> Any:
        """What transformers loads and saves: the model, or the part of it below a head of another kind."""
        return self.model.trunk if isinstance(self.model, PooledModel) else self.model

    def lay(self, tokens: Tokens) -> Tokens:
        """Examples with the learned tokens before them, if there are such."""
        return tokens.after(self.virtual, source=self.head.kind == "pairs") if self.virtual else tokens


def load(
    source: Source,
    section: Model,
    *,
    head: Callable[[PreTrainedConfig], Head],
    attention: Literal["auto", "ragged", "padded"] = "auto",
    seed: int = 0,
    finished: bool = False,
    precision: Precision = "auto",
) -> Loaded:
    """Load weights with the head that `head` names for the config (the folder's own where it has one that fits, else fresh).

    A folder of adapters is loaded with the model that they were trained on. Of a head that knows some of the labels the rows of
    these are kept, and the others begin afresh. With `finished` the folder's own
    head must fit: nothing is drawn afresh. `precision` is for the table and head of a quantised
    model. Raises ModelError for what cannot be found, loaded or combined.
    """
    if source.local is not None and is_adapter(source.local):
        return _load_adapted(source, section, head=head, attention=attention, seed=seed, precision=precision)
    notes: list[str] = []
    with friendly(source):
        config = AutoConfig.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
    refuse_code(config.to_dict(), where=source.location)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError("has no fast tokenizer", where=source.location, remedy="choose a model with a tokenizer.json")
    adapt_config(config, section)
    wanted = head(config)
    refuse_head(wanted, config, section, source)
    pad_id = pad_token(config, tokenizer, notes, kind=wanted.kind)
    before = None if finished else as_saved(wanted, known_labels(config))
    set_labels(config, before or wanted)
    torch.manual_seed(seed)
    plain = not wanted.apart(section.head)
    model, missing = _weights(source, config, section, notes, kind=wanted.kind, plain=plain, precision=precision, finished=finished)
    fresh = bool(missing)
    if finished and fresh:
        raise ModelError("lacks some of its weights", where=source.location, remedy="copy the whole folder again, or train anew")
    if fresh and not wanted.made:
        notes.append(f"{len(missing)} weights are not in the model's files and start at random: {', '.join(missing[:3])}")
    model = attach_head(model, before or wanted, section.head)
    if isinstance(model, PooledModel):
        fresh = not _load_head(model, source.local)
        if finished and fresh:
            raise ModelError("lacks its head", where=source.location, remedy="copy the whole folder again, or train anew")
    grown = _other_labels(model, before, wanted, seed=seed) if before is not None else None
    found = arrange(
        model,
        tokenizer,
        head=wanted,
        attention=attention,
        pad_id=pad_id,
        commit=getattr(config, "_commit_hash", None),
        fresh=fresh,
        notes=notes,
        drawn=missing,
        base=source,
        quantization=section.quantization,
    )
    found.grown = None if fresh else grown
    return found


def _other_labels(model: Any, before: Head, wanted: Head, *, seed: int) -> Grown:
    """Give the head `before` the labels of the one that is wanted."""
    torch.manual_seed(seed)
    grown = grow(model, before.labels, wanted.labels)
    set_labels(model.config, wanted)
    return grown


def _weights(
    source: Source, config: Any, section: Model, notes: list[str], *, kind: str, plain: bool, precision: Precision, finished: bool
) -> tuple[Any, list[str]]:
    """The model as its files and the section want it, and the names of weights that no file has."""
    auto = AUTO[kind] if plain else AutoModel
    options: dict[str, Any] = {
        "config": config,
        "revision": source.revision,
        "trust_remote_code": False,
        "use_safetensors": True,
        "dtype": torch.float32,
        "attn_implementation": "sdpa",
    }
    with friendly(source), quiet():
        if section.quantization != "none":
            streamed = quantize.stream(source, config, section, auto=auto, precision=precision, finished=finished)
            notes += streamed.notes
            return streamed.model, sorted(streamed.drawn) if plain else []
        if not plain:
            return _from_pretrained(source, auto, options), []
        options |= {"ignore_mismatched_sizes": not finished, "output_loading_info": True}
        model, info = _from_pretrained(source, auto, options)
    absent = [k for key in ("missing_keys", "mismatched_keys") for k in info.get(key, ())]
    return model, sorted({str(k[0] if isinstance(k, tuple) else k) for k in absent})


def _from_pretrained(source: Source, auto: Any, options: dict[str, Any]) -> Any:
    """What transformers loads, with the attention that the architecture has."""
    try:
        return auto.from_pretrained(source.location, **options)
    except ValueError as error:
        if "does not support" not in str(error):
            raise
        return auto.from_pretrained(source.location, **{**options, "attn_implementation": "eager"})


def _load_adapted(
    source: Source,
    section: Model,
    *,
    head: Callable[[PreTrainedConfig], Head],
    attention: Literal["auto", "ragged", "padded"],
    seed: int,
    precision: Precision,
) -> Loaded:
    """A base model with the adapters, the head and the tokenizer of a folder."""
    from luthier.models.adapters import saved

    folder = cast(Path, source.local)
    base, facts = base_of(folder), base_facts(folder)
    if base.local is not None:
        saved.check_base(folder, base.local, facts.get("sha256", {}))
    below = section.model_copy(update={"name": base.name, "layers": facts.get("layers", section.layers)})
    if section.quantization == "none":  # as in training, unless another is asked for
        below = below.model_copy(update={k: facts[k] for k in ("quantization", "double_quantization") if k in facts})
        precision = facts.get("precision", precision)
    learned = card_labels(folder)
    loaded = load(
        base,
        below,
        head=lambda config: as_saved(head(config), learned) or head(config),
        attention=attention,
        seed=seed,
        precision=precision,
    )
    if isinstance(loaded.model, PooledModel) and not _load_head(loaded.model, folder):
        raise ModelError("lacks its head", where=str(folder), remedy="copy the whole folder again, or train anew")
    with friendly(source), quiet():
        if (folder / "tokenizer.json").is_file():
            loaded.tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
        saved.load(loaded, folder)
    if loaded.quantization != "none":
        quantize.widen_adapters(loaded.trunk)
    loaded.fresh_head, loaded.drawn, loaded.grown = False, [], None
    wanted = head(loaded.trunk.config)
    if wanted.labels != loaded.head.labels:
        loaded.grown = _other_labels(loaded.model, loaded.head, wanted, seed=seed)
        loaded.head = wanted
    return loaded


def arrange(
    model: PreTrainedModel | PooledModel,
    tokenizer: PreTrainedTokenizerBase,
    *,
    head: Head,
    attention: Literal["auto", "ragged", "padded"],
    pad_id: int,
    commit: str | None = None,
    fresh: bool = False,
    notes: Sequence[str] = (),
    drawn: Sequence[str] = (),
    base: Source | None = None,
    quantization: str = "none",
) -> Loaded:
    """Find how the model takes batches, and how long."""
    layout = forward_layout(model, wanted=attention, pad_id=pad_id, head=head)
    if head.writes:
        language.verify_head(cast(PreTrainedModel, model), layout)
    limit = longest(model.config, tokenizer, start=layout.position_start)
    apart = [f"what texts begin with is computed anew for each of them: {layout.apart}"] if head.trees and not layout.trees else []
    return Loaded(model, tokenizer, layout, limit, commit, fresh, [*notes, *apart], head, list(drawn), base, quantization)


def attach_head(model: PreTrainedModel, head: Head, name: str) -> PreTrainedModel | PooledModel:
    """The model as it is where its architecture has the head; else its trunk with the head that the task or `name` makes."""
    if not head.apart(name):
        return model
    width = model.config.get_text_config().hidden_size
    made = head.module(width) if head.module is not None else build_head(name, hidden_size=width, outputs=head.outputs)
    return PooledModel(model, made, pooling=head.pooling or ("last" if is_decoder(model.config) else "first"))


def forward_layout(
    model: PreTrainedModel | PooledModel, *, wanted: Literal["auto", "ragged", "padded"], pad_id: int, head: Head = CLASSES
) -> Layout:
    """Make the model take batches, ragged where it can."""
    forward.prepare(model)
    return forward.choose_layout(model, wanted=wanted, pad_id=pad_id, kind=head.kind, trees=head.trees)


def for_training(
    model: PreTrainedModel | PooledModel, *, device: torch.device, dtype: torch.dtype, head: Head = CLASSES, checkpointing: bool = False
) -> list[embedding.KeptEmbedding]:
    """Put the model in training shape: device, precision, fast dropout and kept gradients of embeddings and token heads (CPU).

    Returns the embedding tables whose gradients are kept; these stay fp32 and look up in `dtype`. With
    `checkpointing`, layers keep their input alone and are computed again in the backward pass (Chen et al. 2016).
    Raises ModelError where the architecture cannot.
    """
    if checkpointing:
        _keep_inputs_alone(model.trunk if isinstance(model, PooledModel) else model)
    model.to(device)  # type: ignore[arg-type]
    kept: list[embedding.KeptEmbedding] = []
    if quantize.is_quantised(model):  # tables are frozen, and have their precision since they were read
        if device.type == "cpu":
            dropout.install(model)
        quantize.widen_adapters(model.trunk if isinstance(model, PooledModel) else model)
        model.train()
        return kept
    tables: set[int] = set()
    if device.type == "cpu":
        dropout.install(model)
        out = model.get_output_embeddings() if head.writes else None  # type: ignore[operator]
        kept = embedding.install(model, dtype=dtype, head=out)
        tables = {id(table.weight) for table in kept}
        if out is not None and out.weight.numel() >= embedding.MIN_ELEMENTS:
            language.keep_gradient(out.weight)
            tables.add(id(out.weight))
            out.register_forward_pre_hook(_to_weights)  # the head stays fp32, whatever the layers below are
    if dtype != torch.float32:
        for parameter in model.parameters():
            if id(parameter) not in tables:
                parameter.data = parameter.data.to(dtype)
    model.train()
    return kept


def _keep_inputs_alone(trunk: PreTrainedModel) -> None:
    """Switch gradient checkpointing on; the recomputation draws the same dropout, so that nothing but time and memory changes."""
    if not trunk.supports_gradient_checkpointing:
        raise ModelError(
            f"a {trunk.config.model_type} model cannot compute its layers again",
            where="training.checkpointing",
            remedy="take it out, and lower training.max_tokens instead",
        )
    trunk.activation_checkpointing_enable({"use_reentrant": False})


def _to_weights(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook: what comes in, in the precision of the weights."""
    return (inputs[0].to(module.weight.dtype), *inputs[1:])  # type: ignore[union-attr, arg-type]


def _load_head(model: PooledModel, folder: Path | None) -> bool:
    """Load a saved head where the folder has one of the same shape; whether it had."""
    path = folder / "head.safetensors" if folder else None
    if path is None or not path.is_file():
        return False
    from safetensors.torch import load_file

    weights = load_file(path)
    shapes = {k: tuple(v.shape) for k, v in model.head.state_dict().items()}
    if shapes != {k: tuple(v.shape) for k, v in weights.items()}:
        return False
    model.head.load_state_dict(weights)
    return True


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No progress bars, and no notes about the new head, while transformers loads."""
    level, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()


@contextlib.contextmanager
def friendly(source: Source) -> Iterator[None]:
    """Turn what transformers and the hub raise for a model into a ModelError with a remedy."""
    try:
        yield
    except LuthierError:
        raise
    except Exception as error:  # libraries raise many kinds for a damaged or foreign folder
        text = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        remedy = "check the name, the revision and the network; or give a local folder"
        if source.local is not None:
            remedy = "the folder needs config.json, *.safetensors and tokenizer.json of one model"
        elif guess := nearest(source.name, NAMES):
            remedy = f"did you mean {guess}?"
        if "trust_remote_code" in text or "custom code" in text:
            text, remedy = (
                "wants to run its own code",
                "choose a model whose architecture is in transformers; Luthier runs no code from a model",
            )
        raise ModelError(f"cannot be loaded: {text}", where=f"model {source.name}", remedy=remedy) from error
