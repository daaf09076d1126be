"""A model from nothing: a byte-level BPE tokenizer trained on texts, and random weights.

Enters: the `from_scratch` section and the training texts. Leaves: a `Loaded`, like one read from files.
Byte-level BPE (Sennrich et al. 2016; Radford et al. 2019) knows every text, so nothing is unknown to it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BertConfig, LlamaConfig, PreTrainedConfig, PreTrainedTokenizerBase, PreTrainedTokenizerFast, T5Config

from luthier.errors import ModelError
from luthier.models.config import AUTO, set_dropout, set_labels
from luthier.models.heads import Head
from luthier.models.load import Loaded, arrange, attach_head
from luthier.security.artifacts import write_atomic

if TYPE_CHECKING:
    from luthier.recipe.sections import Scratch

PAD, END, START, MASK = "<|pad|>", "<|end|>", "<|start|>", "<|mask|>"
SPECIALS = (PAD, END, START, MASK)
"""END closes documents and turns; START and MASK are for encoders."""
READERS = ("masked", "classes", "words", "span", "vector", "module")
"""Heads that a new bert may have."""
PIECE = 1 << 16
"""Characters given to the tokenizer's trainer at a time."""


def create(
    section: Scratch,
    texts: Sequence[str],
    *,
    head: Callable[[PreTrainedConfig], Head],
    attention: Any = "auto",
    dropout: float | None = None,
    seed: int = 0,
    cache: Path | None = None,
) -> Loaded:
    """Train the tokenizer on the texts and draw the weights from the seed.

    Raises ModelError for a head that the architecture does not have.
    """
    tokenizer = train_tokenizer(section, texts, cache=cache)
    config = config_of(section, len(tokenizer))
    wanted = head(config)
    fitting = {"llama": ("causal", "classes"), "t5": ("pairs",), "bert": READERS}[section.architecture]
    if wanted.kind not in fitting:
        right = next(
            a for a, kinds in (("llama", ("causal",)), ("t5", ("pairs",)), ("bert", READERS)) if wanted.kind in (*kinds, "classes")
        )
        raise ModelError(
            f"a {section.architecture} has no {wanted.kind} head", where="model.from_scratch.architecture", remedy=f"set it to {right}"
        )
    set_labels(config, wanted)
    if dropout is not None:
        set_dropout(config, dropout)
    torch.manual_seed(seed)
    model = AUTO[wanted.kind].from_config(config, attn_implementation="sdpa")
    if section.architecture == "t5":
        _shrink_embeddings(model)
    whole = attach_head(model, wanted, "linear")
    return arrange(whole, tokenizer, head=wanted, attention=attention, pad_id=int(tokenizer.pad_token_id), fresh=True)


@torch.no_grad()
def _shrink_embeddings(model: Any) -> None:
    """Embeddings as small as the other weights, and logits unscaled in return.

    T5 draws them with deviation 1 and divides the logits by the root of the width (Raffel et al. 2020), for
    Adafactor, whose steps grow with the weights. AdamW's do not: there they would take many times as long to learn.
    """
    model.get_input_embeddings().weight.mul_(model.config.d_model**-0.5)


def config_of(section: Scratch, vocabulary: int) -> PreTrainedConfig:
    """The architecture's config in the wanted sizes."""
    inner = section.intermediate_size or 8 * ((section.hidden_size * 8 // 3 + 7) // 8)
    pad, end, start = (SPECIALS.index(t) for t in (PAD, END, START))
    if section.architecture == "llama":
        return LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=section.hidden_size,
            num_hidden_layers=section.layers,
            num_attention_heads=section.heads,
            num_key_value_heads=section.key_value_heads or section.heads,
            intermediate_size=inner,
            max_position_embeddings=section.context,
            tie_word_embeddings=section.tie_embeddings,
            pad_token_id=pad,
            bos_token_id=None,
            eos_token_id=end,
            initializer_range=section.hidden_size**-0.5 / 2,
        )
    if section.architecture == "t5":
        config = T5Config(
            vocab_size=vocabulary,
            d_model=section.hidden_size,
            d_kv=section.hidden_size // section.heads,
            d_ff=inner,
            num_layers=section.layers,
            num_heads=section.heads,
            feed_forward_proj="gated-gelu",
            pad_token_id=pad,
            eos_token_id=end,
        )
        config.tie_word_embeddings, config.scale_decoder_outputs = section.tie_embeddings, False
        config.decoder_start_token_id, config.n_positions = pad, section.context  # type: ignore[attr-defined]
        return config
    return BertConfig(
        vocab_size=vocabulary,
        hidden_size=section.hidden_size,
        num_hidden_layers=section.layers,
        num_attention_heads=section.heads,
        intermediate_size=inner,
        max_position_embeddings=section.context,
        tie_word_embeddings=section.tie_embeddings,
        pad_token_id=pad,
        bos_token_id=start,
        eos_token_id=end,
    )


def train_tokenizer(section: Scratch, texts: Sequence[str], *, cache: Path | None = None) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer; read from `cache` where the same texts and section trained one before."""
    path = None
    if cache is not None:
        digest = hashlib.sha256(f"{section.architecture} {section.vocabulary}".encode())
        for text in texts:
            digest.update(text.encode("utf-8", "surrogatepass") + b"\x1f")
        path = cache / f"tokenizer-{digest.hexdigest()[:40]}.json"
    if path is not None and path.is_file():
        backend = Tokenizer.from_file(str(path))
    else:
        backend = Tokenizer(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
        backend.decoder = decoders.ByteLevel()
        trainer = trainers.BpeTrainer(
            vocab_size=section.vocabulary,
            special_tokens=list(SPECIALS),
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        )
        backend.train_from_iterator(_pieces(texts), trainer)
        if section.architecture == "bert":
            ends = [(t, SPECIALS.index(t)) for t in (START, END)]
            backend.post_processor = processors.TemplateProcessing(
                single=f"{START} $A {END}", pair=f"{START} $A {END} $B:1 {END}:1", special_tokens=ends
            )
        if path is not None:
            write_atomic(path, lambda p: backend.save(str(p)))
    extra = {"mask_token": MASK, "cls_token": START, "sep_token": END} if section.architecture == "bert" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=PAD,
        eos_token=END,
        model_max_length=section.context,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        **extra,
    )


def _pieces(texts: Iterable[str]) -> Iterable[str]:
    for text in texts:
        for start in range(0, len(text), PIECE):
            yield text[start : start + PIECE]
