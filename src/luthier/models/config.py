"""What a model's config says and is told: its heads, layers, labels, length and pad token.

Enters: a config as it was published, and what the task and the `model` section want of it. Leaves: the config
changed in place, or the reason why it cannot be.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from luthier.errors import ModelError
from luthier.models.heads import Head
from luthier.models.source import Source

if TYPE_CHECKING:
    from luthier.recipe.sections import Model

AUTO: dict[str, Any] = {
    "classes": AutoModelForSequenceClassification,
    "words": AutoModelForTokenClassification,
    "span": AutoModelForQuestionAnswering,
    "vector": AutoModel,
    "module": AutoModel,
    "causal": AutoModelForCausalLM,
    "masked": AutoModelForMaskedLM,
    "pairs": AutoModelForSeq2SeqLM,
}
CAUSAL_MARK = ("ForCausalLM", "LMHeadModel")
UNBOUNDED = 1_000_000
"""Tokenizers without a limit say a huge number."""


def refuse_head(head: Head, config: PreTrainedConfig, section: Model, source: Source) -> None:
    """Raise ModelError for a head that this architecture does not have."""
    if head.kind != "classes" and section.head != "linear":
        raise ModelError(
            "is for classification: other tasks take the architecture's own head",
            where="model.head",
            remedy="take model.head out of the recipe",
        )
    remedy = {
        "causal": "choose a decoder (GPT-2, Llama, Qwen ...), such as starter",
        "masked": "choose an encoder (BERT, RoBERTa, MiniLM ...), such as minilm",
        "pairs": "choose an encoder-decoder (T5, BART ...)",
    }.get(head.kind, "choose another model, such as minilm")
    if type(config) not in AUTO[head.kind]._model_mapping:
        raise ModelError(f"a {config.model_type} model has no {head.kind} head", where=f"model {source.name}", remedy=remedy)
    if head.kind == "causal" and config.model_type in _encoders():
        raise ModelError(f"a {config.model_type} model is an encoder: it does not write", where=f"model {source.name}", remedy=remedy)


def _encoders() -> set[str]:
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    return set(MASKED) - {"bart", "mbart"}


def set_labels(config: PreTrainedConfig, head: Head) -> None:
    """Write the names of the classes where the head has such."""
    if not head.labels:
        return
    config.num_labels, config.problem_type = head.outputs, head.problem_type  # type: ignore[assignment]
    config.id2label = dict(enumerate(head.labels))
    config.label2id = {label: i for i, label in enumerate(head.labels)}


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
        set_dropout(config, section.dropout)


def set_dropout(config: PreTrainedConfig, rate: float) -> None:
    """One dropout probability wherever the architecture has one."""
    text = config.get_text_config()
    for name, value in list(text.to_dict().items()):
        is_rate = ("dropout" in name or name.endswith("pdrop")) and not isinstance(value, (bool, str))
        if is_rate and (value is None or isinstance(value, (int, float))):
            setattr(text, name, rate)


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


def pad_token(config: PreTrainedConfig, tokenizer: PreTrainedTokenizerBase, notes: list[str], *, kind: str) -> int:
    """Give model and tokenizer the same pad token; models without one take their end token.

    A tokenizer of a model that writes is left without: saved with it, it would have others leave the end
    token ungraded as padding.
    """
    if tokenizer.pad_token_id is None:
        token = str(tokenizer.eos_token or tokenizer.unk_token or tokenizer.convert_ids_to_tokens(0))
        notes.append(f"the tokenizer has no pad token; {token!r} stands in for it")
        if kind in ("causal", "pairs", "masked"):
            config.pad_token_id = config.get_text_config().pad_token_id = tokenizer.get_vocab()[token]
            return config.pad_token_id
        tokenizer.pad_token = token
    config.get_text_config().pad_token_id = tokenizer.pad_token_id
    config.pad_token_id = tokenizer.pad_token_id
    return int(tokenizer.pad_token_id)
