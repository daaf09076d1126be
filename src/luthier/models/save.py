"""Writing a model for anyone to load: a plain transformers folder, or a plain PEFT folder where it has adapters.

Enters: a `Loaded`. Leaves: safetensors, config and tokenizer, `luthier.json` beside them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from safetensors.torch import save_file
from transformers import PreTrainedModel

from luthier.models.adapters import saved
from luthier.models.heads import PooledModel
from luthier.models.load import Loaded, quiet


def save(
    loaded: Loaded, folder: Path, *, task: dict[str, Any], base: Mapping[str, Any], files: Mapping[str, Any] = MappingProxyType({})
) -> None:
    """Write a plain transformers folder, or a plain PEFT folder where the model has adapters; `luthier.json` beside it.

    `base` says what the adapters stand on (name, digests). A head that transformers does not know goes to
    head.safetensors. `files` are what others want to find beside it, by name, each the JSON that it holds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, tokenizer = loaded.model, loaded.tokenizer
    if saved.has_adapter(loaded):
        assert loaded.base is not None, "adapters stand on a model that was loaded"
        saved.save(loaded, folder, base=loaded.base.location, revision=loaded.commit)
        task = {**task, "base": dict(base)}
    else:
        _save_whole(model.trunk if isinstance(model, PooledModel) else model, folder)
    if isinstance(model, PooledModel):
        save_file({k: v.detach().float().cpu().contiguous() for k, v in model.head.state_dict().items()}, folder / "head.safetensors")
    tokenizer.backend_tokenizer.no_padding()  # type: ignore[attr-defined]
    tokenizer.backend_tokenizer.no_truncation()  # type: ignore[attr-defined]
    tokenizer.save_pretrained(folder)
    for name, content in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    (folder / "luthier.json").write_text(json.dumps(task, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _save_whole(trunk: PreTrainedModel, folder: Path) -> None:
    attention, trunk.config._attn_implementation = trunk.config._attn_implementation, "sdpa"
    try:
        weights = {k: v.detach().to("cpu", torch.float32) if v.is_floating_point() else v for k, v in trunk.state_dict().items()}
        trunk.config.dtype = torch.float32
        with quiet():
            trunk.save_pretrained(folder, state_dict=weights)
    finally:
        trunk.config._attn_implementation = attention
