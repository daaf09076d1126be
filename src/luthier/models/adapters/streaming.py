"""Merging in the memory of one shard: the base model is never held whole.

Enters: a folder of adapters, the config of the merged model, and a class to build it with. Leaves: a plain model
folder with as many shards as the base has. Each layer's weights are read, merged by PEFT's own code for that
layer alone, and written; the rest is copied.
"""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from luthier.errors import ModelError
from luthier.models.source import ADAPTER_WEIGHTS, base_of

INDEX, ONE = "model.safetensors.index.json", "model.safetensors"
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def write_merged(folder: Path, target: Path, *, config: Any, auto: Any, dtype: str | None = None) -> None:
    """Write the merged weights and config to an existing, empty folder; `dtype` is the base's own where None.

    Raises ModelError for adapters that cannot be merged or do not fit their base.
    """
    from peft import PeftConfig

    settings = PeftConfig.from_pretrained(str(folder))
    if settings.is_prompt_learning:
        raise ModelError(
            "learned tokens have no weights to be merged into", where=str(folder), remedy="use the model with its adapter folder as it is"
        )
    base = local_base(folder)
    with torch.device("meta"):
        empty = auto.from_config(config)
    names = set(empty.state_dict())
    prefix = empty.base_model_prefix
    layers, whole = _sorted(load_file(folder / ADAPTER_WEIGHTS), empty, names)
    files = shards(base)
    index: dict[str, str] = {}
    size = 0
    for number, path in enumerate(files, 1):
        out = f"model-{number:05d}-of-{len(files):05d}.safetensors" if len(files) > 1 else ONE
        tensors = dict(_merged(path, _Merger(settings, layers, empty), names, prefix, skip=whole))
        kind = next((t.dtype for t in tensors.values() if t.is_floating_point()), torch.float32)
        if number == len(files):
            tensors |= {n: t.to(kind) for n, t in whole.items()}
        if dtype is not None:
            tensors = {n: t.to(DTYPES[dtype]) if t.is_floating_point() else t for n, t in tensors.items()}
        tensors = {n: t.contiguous() for n, t in tensors.items()}
        save_file(tensors, target / out, metadata={"format": "pt"})
        index |= dict.fromkeys(tensors, out)
        size += sum(t.numel() * t.element_size() for t in tensors.values())
        kinds = {t.dtype for t in tensors.values() if t.is_floating_point()}
        del tensors
    missing = sorted(names - set(index) - set(empty.all_tied_weights_keys))
    if missing:
        raise ModelError(f"{len(missing)} of the model's weights are in no file, such as {missing[0]}", where=str(base))
    if len(files) > 1:
        facts = {"metadata": {"total_size": size}, "weight_map": dict(sorted(index.items()))}
        (target / INDEX).write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    config.dtype = DTYPES[dtype] if dtype else next(iter(kinds), torch.float32)
    config.architectures = [type(empty).__name__]
    config.save_pretrained(target)


def local_base(folder: Path) -> Path:
    """The folder of the base's files, fetched where it is on the hub."""
    base = base_of(folder)
    if base.local is not None:
        return base.local
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(base.location, revision=base.revision, allow_patterns=["*.safetensors", "*.json"]))


def shards(base: Path) -> list[Path]:
    """The safetensors files of a model folder. Raises ModelError where there are none."""
    if (base / INDEX).is_file():
        found = json.loads((base / INDEX).read_text(encoding="utf-8"))["weight_map"]
        return [base / name for name in sorted(set(found.values()))]
    if not (base / ONE).is_file():
        raise ModelError("has no safetensors weights", where=str(base))
    return [base / ONE]


def _sorted(weights: dict[str, Tensor], model: nn.Module, names: set[str]) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """The tensors of an adapter file: by the layer that they belong to, and those that replace a weight of the model."""
    layers: dict[str, dict[str, Tensor]] = {}
    whole: dict[str, Tensor] = {}
    modules = {n for n, _ in model.named_modules()}
    for key, value in weights.items():
        name = key.removeprefix("base_model.model.")
        if name in names:
            whole[name] = value
            continue
        parts = name.split(".")
        owner = next((".".join(parts[:n]) for n in range(len(parts) - 1, 0, -1) if ".".join(parts[:n]) in modules), "")
        layers.setdefault(owner, {})[key if not owner else name.removeprefix(f"{owner}.")] = value
    return layers, whole


class _Merger:
    """One layer at a time: PEFT puts the adapters on it alone, and merges them."""

    def __init__(self, settings: Any, layers: dict[str, dict[str, Tensor]], model: nn.Module) -> None:
        self.settings, self.layers, self.model = settings, layers, model
        self.shared = layers.pop("", {})

    def __call__(self, name: str, weight: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """The merged weight and bias of a layer, in fp32."""
        from peft import PEFT_TYPE_TO_TUNER_MAPPING

        if not len(self.layers[name].get("lora_E", [0])):  # AdaLoRA dropped every direction here
            return weight, bias
        plain: Any = copy.deepcopy(self.model.get_submodule(name))
        plain.weight = nn.Parameter(weight.float(), requires_grad=False)
        plain.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        settings, entries = copy.copy(self.settings), self.layers[name]
        settings.modules_to_save, settings.target_modules = None, [name]
        if "lora_E" in entries:  # AdaLoRA: as many directions as are left, at the scale of all
            settings.rank_pattern, settings.init_r = None, len(entries["lora_E"])
        if getattr(settings, "feedforward_modules", None):
            inner = settings.feedforward_modules
            settings.feedforward_modules = [name] if any(name == i or name.endswith(f".{i}") for i in inner) else []
        holder = _holder(name, plain)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            PEFT_TYPE_TO_TUNER_MAPPING[settings.peft_type](holder, settings, "default")
        layer: Any = holder.get_submodule(name)
        self._fill(layer, entries)
        layer.merge(safe_merge=True)
        base = layer.get_base_layer()
        return base.weight.detach(), None if base.bias is None else base.bias.detach()

    def _fill(self, layer: Any, entries: dict[str, Tensor]) -> None:
        """The saved values into the adapters of a layer. Raises ModelError for one that has no place."""
        state = dict(layer.named_parameters())
        for key, value in entries.items():
            parts = key.split(".")
            tries = (f"{parts[0]}.default", f"{key}.default", ".".join([*parts[:-1], "default", parts[-1]]), f"{key}.default.weight")
            place = next((state[t] for t in tries if t in state), None)
            if place is None or place.shape != value.shape:
                raise ModelError(f"{key} of the adapters has no place in the layer", remedy="merge with the PEFT that wrote it")
            place.data.copy_(value)
        if "lora_E" in entries:
            layer.ranknum["default"].data.fill_(float(self.settings.init_r))
        for key, value in self.shared.items():
            kind = key.rpartition(".")[2]
            here = getattr(layer, kind)["default"]
            getattr(layer, kind)["default"] = value[: here.shape[0], : here.shape[1]]


def _holder(name: str, module: nn.Module) -> nn.Module:
    """A model of this layer alone, under its full name."""
    top = here = nn.Module()
    *parents, last = name.split(".")
    for part in parents:
        below = nn.Module()
        here.add_module(part, below)
        here = below
    here.add_module(last, module)
    return top


def _merged(path: Path, merger: _Merger, names: set[str], prefix: str, *, skip: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """The tensors of a shard under the model's own names, those of adapted layers merged."""
    with safe_open(path, framework="pt") as file:
        keys = {name: key for key in file.keys() if (name := _own_name(key, names, prefix)) and name not in skip}  # noqa: SIM118
        for name, key in keys.items():
            module, _, attribute = name.rpartition(".")
            if module not in merger.layers:
                yield name, file.get_tensor(key)
            elif attribute == "weight":  # a bias goes with its weight
                bias, tensor = keys.get(f"{module}.bias"), file.get_tensor(key)
                weight, moved = merger(module, tensor, file.get_tensor(bias) if bias else None)
                yield name, weight.to(tensor.dtype)
                if moved is not None:
                    yield f"{module}.bias", moved.to(tensor.dtype)


def _own_name(key: str, names: set[str], prefix: str) -> str | None:
    """What the model calls a tensor of a file, which may lack the base model's prefix or have one too many."""
    return next((n for n in (key, f"{prefix}.{key}", key.removeprefix(f"{prefix}.")) if n in names), None)
