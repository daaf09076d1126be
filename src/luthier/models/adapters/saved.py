"""Adapter folders: written so that plain PEFT loads them, read with PEFT's own loader.

Enters: a model with adapters, or a folder that holds some. Leaves: adapter_config.json and
adapter_model.safetensors of a few megabytes; or the model with the adapters in place.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from luthier.errors import ModelError
from luthier.models.adapters import prefix, virtual
from luthier.models.adapters.injected import TASK_TYPES, whole_modules
from luthier.models.source import ADAPTER_WEIGHTS
from luthier.security.artifacts import sha256

if TYPE_CHECKING:
    from luthier.models.load import Loaded


SHARED = ("base_model.vera_A", "base_model.vera_B")
"""VeRA's random matrices, which belong to no layer of the model."""


def has_adapter(loaded: Loaded) -> bool:
    """Whether a model carries adapters."""
    return bool(getattr(loaded.trunk, "peft_config", None))


def save(loaded: Loaded, folder: Path, *, base: str, revision: str | None) -> None:
    """Write the adapters of a model that was loaded from `base`. The folder exists."""
    from peft import get_peft_model_state_dict
    from safetensors.torch import save_file

    trunk = loaded.trunk
    config: Any = copy.copy(trunk.peft_config["default"])
    prompt = config.is_prompt_learning
    if prompt:
        weights = {"prompt_embeddings": virtual.written(trunk)}
        for name in whole_modules(loaded):
            weights |= {f"base_model.{name}.{n}": t for n, t in trunk.get_submodule(name).state_dict().items()}
        config.modules_to_save = whole_modules(loaded) or None
        config.task_type = TASK_TYPES[loaded.head.kind] if trunk is loaded.model else "FEATURE_EXTRACTION"
    else:
        pattern, shared = getattr(config, "rank_pattern", None), getattr(config, "save_projection", False)
        masks = pattern if str(config.peft_type) == "PeftType.ADALORA" else None
        if masks or shared:  # these two PEFT takes from its tuner, which is not part of the model here
            trunk.peft_config["default"] = alone = copy.copy(config)
            alone.rank_pattern, alone.save_projection = None, False
        found = get_peft_model_state_dict(trunk, adapter_name="default", save_embedding_layers=False)
        trunk.peft_config["default"] = config
        config = copy.copy(config)
        if loaded.begun:
            found = _difference(found, {n.replace(".default", ""): t for n, t in loaded.begun.items()}, config)
        if masks:
            config.rank_pattern = {n.replace(".default", ""): m for n, m in masks.items()}
            found = _shrunk(found, config.rank_pattern)
        weights = {f"base_model.model.{k}": v for k, v in found.items()}
        if shared:
            layer: Any = next(m for m in trunk.modules() if hasattr(m, "vera_A"))
            weights |= {name: getattr(layer, name.rpartition(".")[2])["default"] for name in SHARED}
    config.base_model_name_or_path, config.revision, config.inference_mode = base, revision, True
    save_file({k: _plain(v) for k, v in weights.items()}, folder / ADAPTER_WEIGHTS, metadata={"format": "pt"})
    config.save_pretrained(str(folder))


def load(loaded: Loaded, folder: Path, *, trainable: bool = False) -> None:
    """Put the adapters of a folder in place. Raises ModelError where they do not fit the model."""
    from peft import PeftConfig, PeftModel
    from safetensors.torch import load_file

    config = PeftConfig.from_pretrained(str(folder))
    trunk = loaded.trunk
    weights = load_file(folder / ADAPTER_WEIGHTS)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if config.is_prompt_learning:
                _load_prompt(loaded, config, weights)
            else:
                outside = PeftModel.from_pretrained(trunk, str(folder), is_trainable=trainable)  # type: ignore[arg-type]
                del outside
    except (RuntimeError, ValueError, KeyError) as error:
        raise ModelError(f"does not fit its base model: {str(error).splitlines()[0][:200]}", where=str(folder)) from error
    if not config.is_prompt_learning and (missing := _not_taken(trunk, weights)):
        raise ModelError(
            f"does not fit its base model: {len(missing)} of its weights found no place, such as {missing[0]}", where=str(folder)
        )


def _load_prompt(loaded: Loaded, config: Any, weights: dict[str, Tensor]) -> None:
    """An encoder that holds the learned tokens as they are."""
    trunk = loaded.trunk
    values = weights["prompt_embeddings"]
    encoder = nn.Module()
    encoder.embedding = nn.Embedding.from_pretrained(values.clone())
    config.inference_mode = True
    encoder.to(next(trunk.parameters()).device)
    (prefix if str(config.peft_type) == "PeftType.PREFIX_TUNING" else virtual).attach(loaded, config, encoder)
    for name in config.modules_to_save or ():
        prefixed = f"base_model.{name}."
        trunk.get_submodule(name).load_state_dict({k.removeprefix(prefixed): v for k, v in weights.items() if k.startswith(prefixed)})


def _not_taken(trunk: nn.Module, weights: dict[str, Tensor]) -> list[str]:
    """Names in the file whose value is not in the model."""
    state = {_bare(n): t for n, t in trunk.state_dict().items()}
    missing = []
    for name, value in weights.items():
        if name in SHARED:
            continue
        here = state.get(_bare(name.removeprefix("base_model.model.")))
        if here is None or here.shape != value.shape:
            missing.append(name)
    return missing


def _bare(name: str) -> str:
    """A parameter's name without PEFT's own levels."""
    plain = ".".join(p for p in name.split(".") if p not in ("default", "modules_to_save"))
    return plain.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def check_base(folder: Path, base: Path, recorded: Mapping[str, str]) -> None:
    """Raise ModelError when the base model is not the one that the adapters were trained on."""
    for name, digest in recorded.items():
        if name.endswith(".safetensors") and not ((base / name).is_file() and sha256(base / name) == digest):
            raise ModelError(
                f"its base model, {base}, is not the one it was trained on: {name} differs",
                where=str(folder),
                remedy="put the old base model back, or train anew",
            )


def _difference(weights: dict[str, Tensor], begun: Mapping[str, Tensor], config: Any) -> dict[str, Tensor]:
    """Adapters of twice the rank that stand on the base as it was: BA - B'A', as [B, -B'] [A; A'].

    The config is told: its scale must stay what it was.
    """
    import math

    import torch

    found = dict(weights)
    for name, start in begun.items():
        here, before = weights[name], start.to(weights[name].device)
        found[name] = torch.cat([here, before], 0) if "lora_A" in name else torch.cat([here, -before], 1)
    wider = math.sqrt(2) if config.use_rslora else 2
    config.r, config.lora_alpha, config.init_lora_weights = 2 * config.r, wider * config.lora_alpha, True
    config.rank_pattern = {n: 2 * r for n, r in config.rank_pattern.items()}
    config.alpha_pattern = {n: wider * a for n, a in config.alpha_pattern.items()}
    return found


def _shrunk(weights: dict[str, Tensor], masks: dict[str, list[bool]]) -> dict[str, Tensor]:
    """AdaLoRA's matrices without the directions that were dropped."""
    found = dict(weights)
    for name, mask in masks.items():
        stem = name.removesuffix(".lora_E")
        for part in ("lora_E", "lora_A", "lora_B"):
            value = found[f"{stem}.{part}"]
            found[f"{stem}.{part}"] = value[:, mask] if part == "lora_B" else value[mask]
    return found


def _plain(value: Tensor) -> Tensor:
    import torch

    return value.detach().to("cpu", torch.float32).contiguous().clone() if value.is_floating_point() else value.detach().cpu().contiguous()
