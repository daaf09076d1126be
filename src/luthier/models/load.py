"""Loading a model for a task: config, weights, tokenizer and head, ready for ragged batches.

Enters: a `Source`, the `model` section and the head's width. Leaves: a `Loaded`. Everything goes
through transformers' own `from_pretrained`, never with remote code, from safetensors alone.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from transformers import (
    AutoConfig,
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from luthier.errors import LuthierError, ModelError
from luthier.models import dropout, embedding, forward, language
from luthier.models.forward import Layout
from luthier.models.heads import Head, PooledModel, build_head
from luthier.models.source import NAMES, Source, refuse_code
from luthier.registry import nearest

if TYPE_CHECKING:
    from luthier.recipe.sections import Model

AUTO: dict[str, Any] = {
    "classes": AutoModelForSequenceClassification,
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "pairs": AutoModelForSeq2SeqLM,
}
CLASSES = Head("classes")
CAUSAL_MARK = ("ForCausalLM", "LMHeadModel")
UNBOUNDED = 1_000_000
"""Tokenizers without a limit say a huge number."""


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


def load(
    source: Source,
    section: Model,
    *,
    head: Callable[[PreTrainedConfig], Head],
    attention: Literal["auto", "ragged", "padded"] = "auto",
    seed: int = 0,
    finished: bool = False,
) -> Loaded:
    """Load weights with the head that `head` names for the config (the folder's own where it has one that fits, else fresh).

    With `finished` the folder's own head must fit: nothing is drawn afresh. Raises ModelError for what
    cannot be found, loaded or combined.
    """
    notes: list[str] = []
    with friendly(source):
        config = AutoConfig.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(source.location, revision=source.revision, trust_remote_code=False)
    refuse_code(config.to_dict(), where=source.location)
    if getattr(tokenizer, "backend_tokenizer", None) is None:
        raise ModelError("has no fast tokenizer", where=source.location, remedy="choose a model with a tokenizer.json")
    adapt_config(config, section)
    wanted = head(config)
    _refuse_head(wanted, config, section, source)
    pad_id = _pad_token(config, tokenizer, notes, kind=wanted.kind)
    if wanted.kind == "classes":
        config.num_labels = wanted.outputs
        config.id2label = dict(enumerate(wanted.labels))
        config.label2id = {label: i for i, label in enumerate(wanted.labels)}
        config.problem_type = wanted.problem_type
    torch.manual_seed(seed)
    plain = wanted.kind != "classes" or section.head == "linear"
    options: dict[str, Any] = {
        "config": config,
        "revision": source.revision,
        "trust_remote_code": False,
        "use_safetensors": True,
        "dtype": torch.float32,
        "attn_implementation": "sdpa",
    }
    with friendly(source), quiet():
        auto = AUTO[wanted.kind] if plain else AutoModel
        if plain:
            options["ignore_mismatched_sizes"] = not finished
            options["output_loading_info"] = True
        try:
            loaded = auto.from_pretrained(source.location, **options)
        except ValueError as error:
            if "does not support" not in str(error):
                raise
            loaded = auto.from_pretrained(source.location, **{**options, "attn_implementation": "eager"})
    model, info = loaded if isinstance(loaded, tuple) else (loaded, {})
    missing = sorted({str(k[0] if isinstance(k, tuple) else k) for key in ("missing_keys", "mismatched_keys") for k in info.get(key, ())})
    fresh = bool(missing)
    if finished and fresh:
        raise ModelError("lacks some of its weights", where=source.location, remedy="copy the whole folder again, or train anew")
    if fresh and wanted.kind != "classes":
        notes.append(f"{len(missing)} weights are not in the model's files and start at random: {', '.join(missing[:3])}")
    model = attach_head(model, section.head if wanted.kind == "classes" else "linear", outputs=wanted.outputs)
    if isinstance(model, PooledModel):
        fresh = not _load_head(model, source)
        if finished and fresh:
            raise ModelError("lacks its head", where=source.location, remedy="copy the whole folder again, or train anew")
    return arrange(
        model,
        tokenizer,
        head=wanted,
        attention=attention,
        pad_id=pad_id,
        commit=getattr(config, "_commit_hash", None),
        fresh=fresh,
        notes=notes,
    )


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
) -> Loaded:
    """Find how the model takes batches, and how long."""
    layout = forward_layout(model, wanted=attention, pad_id=pad_id, head=head)
    if head.kind in ("causal", "pairs"):
        language.verify_head(cast(PreTrainedModel, model), layout)
    limit = longest(model.config, tokenizer, start=layout.position_start)
    return Loaded(model, tokenizer, layout, limit, commit, fresh, list(notes), head)


def _refuse_head(head: Head, config: PreTrainedConfig, section: Model, source: Source) -> None:
    """Raise ModelError for a head that this architecture does not have."""
    if head.kind != "classes" and section.head != "linear":
        raise ModelError(
            "is for classification: a task that predicts tokens keeps the architecture's own head",
            where="model.head",
            remedy="take model.head out of the recipe",
        )
    remedy = {
        "causal": "choose a decoder (GPT-2, Llama, Qwen ...), such as starter",
        "masked": "choose an encoder (BERT, RoBERTa, MiniLM ...), such as minilm",
        "pairs": "choose an encoder-decoder (T5, BART ...)",
        "classes": "choose another model",
    }[head.kind]
    if type(config) not in AUTO[head.kind]._model_mapping:
        raise ModelError(f"a {config.model_type} model has no {head.kind} head", where=f"model {source.name}", remedy=remedy)
    if head.kind == "causal" and config.model_type in _encoders():
        raise ModelError(f"a {config.model_type} model is an encoder: it does not write", where=f"model {source.name}", remedy=remedy)


def _encoders() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    return set(MASKED) - {"bart", "mbart"}


def attach_head(model: PreTrainedModel, head: str, *, outputs: int) -> PreTrainedModel | PooledModel:
    """The model as it is for `linear`; else its trunk with the named head."""
    if head == "linear":
        return model
    pooling: Literal["first", "last"] = "last" if is_decoder(model.config) else "first"
    return PooledModel(model, build_head(head, hidden_size=model.config.get_text_config().hidden_size, outputs=outputs), pooling=pooling)


def forward_layout(
    model: PreTrainedModel | PooledModel, *, wanted: Literal["auto", "ragged", "padded"], pad_id: int, head: Head = CLASSES
) -> Layout:
    """Make the model take batches, ragged where it can."""
    forward.prepare(model)
    return forward.choose_layout(model, wanted=wanted, pad_id=pad_id, kind=head.kind)


def for_training(
    model: PreTrainedModel | PooledModel, *, device: torch.device, dtype: torch.dtype, head: Head = CLASSES
) -> list[embedding.KeptEmbedding]:
    """Put the model in training shape: device, precision, fast dropout and kept gradients of embeddings and token heads (CPU).

    Returns the embedding tables whose gradients are kept; these stay fp32 and look up in `dtype`.
    """
    model.to(device)  # type: ignore[arg-type]
    kept: list[embedding.KeptEmbedding] = []
    tables: set[int] = set()
    if device.type == "cpu":
        dropout.install(model)
        out = model.get_output_embeddings() if head.kind in ("causal", "pairs") else None  # type: ignore[operator]
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


def _to_weights(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[Any, ...]:
    """A forward pre-hook: what comes in, in the precision of the weights."""
    return (inputs[0].to(module.weight.dtype), *inputs[1:])  # type: ignore[union-attr, arg-type]


def adapt_config(config: PreTrainedConfig, section: Model) -> None:
    """Apply `layers` and `dropout`. Raises ModelError for more layers than there are."""
    text = config.get_text_config()
    if section.layers is not None:
        if section.layers > text.num_hidden_layers:
            raise ModelError(f"has {text.num_hidden_layers} layers, not {section.layers}", where="model.layers")
        for name, value in list(vars(text).items()):
            if isinstance(value, list) and len(value) == text.num_hidden_layers:
                setattr(text, name, value[: section.layers])
        text.num_hidden_layers = section.layers
        if hasattr(text, "num_decoder_layers"):
            text.num_decoder_layers = section.layers
    if section.dropout is not None:
        for name, value in list(text.to_dict().items()):
            is_rate = ("dropout" in name or name.endswith("pdrop")) and not isinstance(value, (bool, str))
            if is_rate and (value is None or isinstance(value, (int, float))):
                setattr(text, name, section.dropout)


def is_decoder(config: PreTrainedConfig) -> bool:
    """Whether the architecture reads left to right."""
    names = [*(config.architectures or []), *_classes_of(config)]
    return any(n.endswith(CAUSAL_MARK) for n in names)


def _classes_of(config: PreTrainedConfig) -> list[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    return [] if config.model_type in MASKED else ["ForCausalLM"]


def longest(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, *, start: int) -> int:
    """The longest example the model takes, in tokens, when positions begin at `start`."""
    positions = (getattr(config.get_text_config(), "max_position_embeddings", None) or UNBOUNDED) - start
    limit = tokenizer.model_max_length or UNBOUNDED
    return int(min(positions, limit if limit < UNBOUNDED else positions))


def _pad_token(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, notes: list[str], *, kind: str) -> int:
    """Give model and tokenizer the same pad token; models without one take their end token.

    A tokenizer of a model that writes is left without: saved with it, it would have others leave the end
    token ungraded as padding.
    """
    if tokenizer.pad_token_id is None:
        token = str(tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0))
        notes.append(f"the tokenizer has no pad token; {token!r} stands in for it")
        if kind != "classes":
            config.pad_token_id = config.get_text_config().pad_token_id = tokenizer.get_vocab()[token]
            return config.pad_token_id
        tokenizer.pad_token = token
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    config.pad_token_id = tokenizer.pad_token_id
    return int(tokenizer.pad_token_id)


def _load_head(model: PooledModel, source: Source) -> bool:
    """Load a saved head where the folder has one of the same shape; whether it had."""
    path = source.local / "head.safetensors" if source.local else None
    if path is None or not path.is_file():
        return False
    from safetensors.torch import load_file

    with friendly(source):
        weights = load_file(path)
    shapes = {k: tuple(v.shape) for k, v in model.head.state_dict().items()}
    if shapes != {k: tuple(v.shape) for k, v in weights.items()}:
        return False
    model.head.load_state_dict(weights)
    return True


def save(model: PreTrainedModel | PooledModel, tokenizer: PreTrainedTokenizerBase, folder: Path, *, task: dict[str, Any]) -> None:
    """Write a plain transformers folder (safetensors), with `luthier.json` beside it.

    A head that transformers does not know goes to head.safetensors.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    trunk = model.trunk if isinstance(model, PooledModel) else model
    attention, trunk.config._attn_implementation = trunk.config._attn_implementation, "sdpa"
    try:
        weights = {k: v.detach().to("cpu", torch.float32) if v.is_floating_point() else v for k, v in trunk.state_dict().items()}
        trunk.config.dtype = torch.float32
        with quiet():
            trunk.save_pretrained(folder, state_dict=weights)
    finally:
        trunk.config._attn_implementation = attention
    if isinstance(model, PooledModel):
        save_file({k: v.detach().float().cpu().contiguous() for k, v in model.head.state_dict().items()}, folder / "head.safetensors")
    tokenizer.backend_tokenizer.no_padding()  # type: ignore[attr-defined]
    tokenizer.backend_tokenizer.no_truncation()  # type: ignore[attr-defined]
    tokenizer.save_pretrained(folder)
    (folder / "luthier.json").write_text(json.dumps(task, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


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
