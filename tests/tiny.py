"""Tiny random models of every supported family, and small data: made here, never fetched."""

from __future__ import annotations

import csv
import random
from pathlib import Path

import torch
import transformers as hf
from tokenizers import Tokenizer, models, pre_tokenizers, processors

WORDS = [
    "the", "a", "film", "meal", "room", "book", "was", "is", "and", "but", "very", "so", "really", "quite", "not", "service",
    "lovely", "great", "happy", "bright", "warm", "awful", "broken", "rude", "cold", "late", "plain", "usual", "average", "middling",
    "flat", "i", "we", "they", "found", "it", "this", "that", "today", "again", "staff", "story", "screen", "battery", "price",
]  # fmt: skip
SPECIALS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = len(SPECIALS) + len(WORDS)
MOOD_WORDS = {
    "positive": ["lovely", "great", "happy", "bright", "warm"],
    "negative": ["awful", "broken", "rude", "cold", "late"],
    "neutral": ["plain", "usual", "average", "middling", "flat"],
}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48, "vocab_size": VOCABULARY}
DECODER = {**SMALL, "pad_token_id": 0, "bos_token_id": 2, "eos_token_id": 3}

T5 = {
    "vocab_size": VOCABULARY, "d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2, "num_heads": 4, "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 12, "pad_token_id": 0, "eos_token_id": 3, "decoder_start_token_id": 0,
}  # fmt: skip


def config(family: str, **changes: object) -> hf.PreTrainedConfig:
    """A tiny config of a family; windows, and the reach of relative positions, are shorter than the texts where the family has them."""
    makers = {
        "bert": lambda: hf.BertConfig(**SMALL, max_position_embeddings=64),
        "distilbert": lambda: hf.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=48, vocab_size=VOCABULARY, max_position_embeddings=64),
        "roberta": lambda: hf.RobertaConfig(**SMALL, max_position_embeddings=66, pad_token_id=1, bos_token_id=2, eos_token_id=3, type_vocab_size=1),
        "gpt2": lambda: hf.GPT2Config(n_embd=32, n_layer=2, n_head=4, n_inner=48, vocab_size=VOCABULARY, n_positions=64, pad_token_id=0, bos_token_id=2, eos_token_id=3),
        "opt": lambda: hf.OPTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=4, ffn_dim=48, vocab_size=VOCABULARY,
                                    word_embed_proj_dim=32, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3),
        "llama": lambda: hf.LlamaConfig(**DECODER, num_key_value_heads=2, max_position_embeddings=64),
        "qwen2": lambda: hf.Qwen2Config(**DECODER, num_key_value_heads=2, max_position_embeddings=64),
        "qwen3": lambda: hf.Qwen3Config(**DECODER, num_key_value_heads=2, head_dim=8, max_position_embeddings=64),
        "mistral": lambda: hf.MistralConfig(**DECODER, num_key_value_heads=2, max_position_embeddings=64, sliding_window=5),
        "gemma2": lambda: hf.Gemma2Config(**DECODER, num_key_value_heads=2, head_dim=8, max_position_embeddings=64, sliding_window=5,
                                          query_pre_attn_scalar=8),
        "modernbert": lambda: hf.ModernBertConfig(**{**SMALL, "num_hidden_layers": 3}, max_position_embeddings=64, local_attention=6, global_attn_every_n_layers=3,
                                                  pad_token_id=0, bos_token_id=2, eos_token_id=3, cls_token_id=2, sep_token_id=3,
                                                  attention_dropout=0.1, mlp_dropout=0.1, embedding_dropout=0.1),
        "electra": lambda: hf.ElectraConfig(**SMALL, embedding_size=32, max_position_embeddings=64),
        "cohere": lambda: hf.CohereConfig(**DECODER, num_key_value_heads=2, max_position_embeddings=64, logit_scale=0.5),
        "granite": lambda: hf.GraniteConfig(**DECODER, num_key_value_heads=2, max_position_embeddings=64, logits_scaling=4.0),
        "hyperclovax": lambda: hf.HyperCLOVAXConfig(**DECODER, num_key_value_heads=2, max_position_embeddings=64, logits_scaling=0.5),
        "t5": lambda: hf.T5Config(**T5),
        "mt5": lambda: hf.MT5Config(**T5),
        "umt5": lambda: hf.UMT5Config(**T5),
        "bart": lambda: hf.BartConfig(d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4, decoder_attention_heads=4, encoder_ffn_dim=48,
                                      decoder_ffn_dim=48, vocab_size=VOCABULARY, max_position_embeddings=64, pad_token_id=0, bos_token_id=2, eos_token_id=3,
                                      decoder_start_token_id=2, forced_eos_token_id=3),
        "deberta": lambda: hf.DebertaV2Config(**SMALL, max_position_embeddings=64, relative_attention=True, pos_att_type=["p2c", "c2p"]),
    }  # fmt: skip
    made = makers[family]()
    for name, value in changes.items():
        setattr(made, name, value)
    return made


ENCODERS = ("bert", "distilbert", "roberta", "modernbert")
DECODERS = ("gpt2", "opt", "llama", "qwen2", "qwen3", "mistral", "gemma2")
PAIRS = ("t5", "mt5", "umt5", "bart")


def tokenizer(family: str = "bert") -> hf.PreTrainedTokenizerFast:
    """A word-level tokenizer; decoders put only a beginning token."""
    vocabulary = {w: i for i, w in enumerate([*SPECIALS, *WORDS])}
    if family == "roberta":
        vocabulary["[PAD]"], vocabulary["[UNK]"] = 1, 0
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    if family in DECODERS:
        backend.post_processor = processors.TemplateProcessing(single="[CLS] $A", pair="[CLS] $A $B:1", special_tokens=[("[CLS]", 2)])
    else:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
        )
    return hf.PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", pad_token="[PAD]", cls_token="[CLS]", sep_token="[SEP]", mask_token="[MASK]",
        bos_token="[CLS]", eos_token="[SEP]", model_max_length=64,
        model_input_names=["input_ids", "token_type_ids", "attention_mask"] if family == "bert" else ["input_ids", "attention_mask"],
    )  # fmt: skip


def save(family: str, folder: Path, **changes: object) -> Path:
    """A model folder, as plain transformers writes it."""
    torch.manual_seed(0)
    auto = hf.AutoModelForCausalLM if family in DECODERS else hf.AutoModel
    auto.from_config(config(family, **changes)).save_pretrained(folder)
    tokenizer(family).save_pretrained(folder)
    return folder


def sentences(count: int, *, seed: int = 0, low: int = 3, high: int = 30) -> list[list[int]]:
    """Token ids without special tokens, of random lengths."""
    draw = random.Random(seed)
    return [[draw.randrange(len(SPECIALS), VOCABULARY) for _ in range(draw.randint(low, high))] for _ in range(count)]


def moods_rows(count: int, *, seed: int = 0) -> list[tuple[str, str]]:
    """(text, label) rows whose label one word decides."""
    draw = random.Random(seed)
    fillers = [w for w in WORDS if not any(w in words for words in MOOD_WORDS.values())]
    rows = []
    for i in range(count):
        label = sorted(MOOD_WORDS)[i % 3]
        words = [draw.choice(fillers) for _ in range(draw.randint(3, 9))]
        words.insert(draw.randrange(len(words)), draw.choice(MOOD_WORDS[label]))
        rows.append((" ".join(words), label))
    return rows


def write_moods(path: Path, count: int = 120, *, seed: int = 0) -> Path:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["text", "label"])
        writer.writerows(moods_rows(count, seed=seed))
    return path
