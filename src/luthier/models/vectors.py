"""Vectors of texts: which hidden states make them, and the files that tell others so.

Enters: a config with the folder or id it came from, or a batch. Leaves: a pooling, vectors, and what sentence-transformers
wants to find beside a model (its modules and their configs), whose names and keys are those of its published models.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, cast

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils.hub import cached_file

from luthier.models.batch import Batch
from luthier.models.forward import Layout, Pooling, hidden_states, pool

MODES = {"mean": "pooling_mode_mean_tokens", "first": "pooling_mode_cls_token", "last": "pooling_mode_lasttoken"}
OTHERS = ("pooling_mode_max_tokens", "pooling_mode_mean_sqrt_len_tokens", "pooling_mode_weightedmean_tokens")
SHORT = {"mean": "mean", "cls": "first", "lasttoken": "last"}
"""How newer files name the three."""


def vectors(model: nn.Module, batch: Batch, layout: Layout, *, pooling: str) -> Tensor:
    """One vector a segment, (segments, width), in fp32."""
    return pool(hidden_states(model, batch, layout).float(), batch.segments, cast(Pooling, pooling))


def pooling_of(config: PreTrainedConfig) -> Pooling:
    """The pooling that a model's own files name, where it is one of ours; else the mean."""
    try:
        path = cached_file(
            config._name_or_path, "1_Pooling/config.json", revision=getattr(config, "_commit_hash", None),
            _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False,
            _raise_exceptions_for_gated_repo=False,
        ) if config._name_or_path else None  # fmt: skip
        found = json.loads(Path(path).read_text(encoding="utf-8")) if path else {}
    except (OSError, ValueError):
        return "mean"
    if isinstance(short := found.get("pooling_mode"), str):
        return cast(Pooling, SHORT.get(short, "mean"))
    return cast(Pooling, next((name for name, key in MODES.items() if found.get(key)), "mean"))


def modules(config: PreTrainedConfig, *, pooling: str, normalize: bool, max_length: int) -> dict[str, Any]:
    """The files by name, each the JSON that it holds."""
    kinds = ["Transformer", "Pooling", *(["Normalize"] if normalize else [])]
    listed = [
        {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"sentence_transformers.models.{kind}"}
        for i, kind in enumerate(kinds)
    ]
    modes = {key: name == pooling for name, key in MODES.items()} | dict.fromkeys(OTHERS, False)
    files = {
        "modules.json": listed,
        "1_Pooling/config.json": {"word_embedding_dimension": config.get_text_config().hidden_size, **modes},
        "sentence_bert_config.json": {"max_seq_length": max_length, "do_lower_case": False},
        "config_sentence_transformers.json": {"prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine"},
    }
    return files | ({"2_Normalize/config.json": {}} if normalize else {})
