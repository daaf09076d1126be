"""A model built without memory, and filled from its checkpoint one tensor at a time.

Enters: a config, then safetensors files. Leaves: a model whose buffers are real from the start, and whose
parameters become real as their values are read; what is in no file is drawn. Tied parameters stay tied.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.conversion_mapping import get_model_conversion_mapping
from transformers.core_model_loading import WeightConverter, rename_source_key

from luthier.errors import ModelError
from luthier.models.host import give_back_memory

COMPARED = 1 << 12
"""Rows of a tied table that are compared at a time."""


@runtime_checkable
class Packing(Protocol):
    """A layer that keeps its weight in a form of its own."""

    turned: bool

    def pack(self, weight: Tensor) -> None:
        """Take a weight as the layer is written: (rows, columns)."""
        ...


@dataclass(eq=False)
class Slot:
    """One parameter to be, under all the names that share it: (name, module, attribute)."""

    owners: list[tuple[str, nn.Module, str]]
    shape: torch.Size
    dtype: torch.dtype
    filled: bool = False

    @property
    def packing(self) -> Packing | None:
        _, module, attribute = self.owners[0]
        return module if isinstance(module, Packing) and attribute == "weight" else None

    @property
    def value(self) -> Tensor:
        _, module, attribute = self.owners[0]
        return getattr(module, attribute)

    def put(self, value: Tensor) -> None:
        """Make it real for all owners."""
        parameter = nn.Parameter(value)
        for _, module, attribute in self.owners:
            setattr(module, attribute, parameter)


class _NoMemory(TorchFunctionMode):
    """Inside it `torch.empty`, of which parameters are made, takes no memory; buffers are made from values, and are real."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is torch.empty:
            kwargs = {**(kwargs or {}), "device": "meta"}
        return func(*args, **(kwargs or {}))


def build(auto: Any, config: PreTrainedConfig) -> PreTrainedModel:
    """The model that `auto`, one of transformers' classes, makes of a config, its weights without memory."""
    options: dict[str, Any] = {"dtype": torch.float32, "attn_implementation": "sdpa"}
    with _NoMemory():
        try:
            return auto.from_config(config, **options)
        except ValueError as error:
            if "does not support" not in str(error):
                raise
            return auto.from_config(config, **{**options, "attn_implementation": "eager"})


def slots_of(model: PreTrainedModel, *, tables: torch.dtype) -> dict[str, Slot]:
    """Every parameter by its names: embedding table and output head in the precision of `tables`, all else in fp32."""
    ends = [m for m in (model.get_input_embeddings(), model.get_output_embeddings()) if m is not None]
    plain = [m for m in ends if isinstance(m, nn.Embedding) or type(m) is nn.Linear]
    narrow = {id(m.weight) for m in plain} - {id(getattr(m, "weight", None)) for m in ends if m not in plain}
    by_id: dict[int, Slot] = {}
    found: dict[str, Slot] = {}
    for path, module in model.named_modules(remove_duplicate=False):
        for attribute, parameter in module.named_parameters(recurse=False):
            name = f"{path}.{attribute}" if path else attribute
            kind = tables if id(parameter) in narrow else torch.float32
            found[name] = by_id.setdefault(id(parameter), Slot([], parameter.shape, kind))
            found[name].owners.append((name, module, attribute))
    return found


@torch.no_grad()
def fill(model: PreTrainedModel, slots: dict[str, Slot], files: Sequence[Path], *, finished: bool) -> None:
    """Read the files. Raises ModelError for a layer of another shape; heads of another shape are left, unless `finished`."""
    buffers = dict(model.named_buffers())
    for name, value in _tensors(model, files):
        slot = slots.get(name)
        if slot is None:
            if name in buffers and buffers[name].shape == value.shape:
                buffers[name].copy_(value)
            continue
        packing = slot.packing
        if packing is not None and packing.turned:
            value = value.t()
        if value.shape != slot.shape:
            if finished or packing is not None:
                raise ModelError(f"{name} has the shape {tuple(value.shape)} in the files, not {tuple(slot.shape)}", where="model.name")
        elif slot.filled:
            if not _same(value, slot.value):  # tied by the config, but not in the files: they are right, as for transformers
                _, module, attribute = next(owner for owner in slot.owners if owner[0] == name)
                setattr(module, attribute, nn.Parameter(value.to(slot.dtype, copy=True)))
        else:
            if packing is not None:
                packing.pack(value)
            else:
                slot.put(value.to(slot.dtype, copy=True))
            slot.filled = True


@torch.no_grad()
def draw(model: PreTrainedModel, slots: dict[str, Slot]) -> list[str]:
    """Draw what was in no file, as the architecture does, from torch's generator; its names.

    Raises ModelError where a packed layer is among it: its files are not those of the config.
    """
    empty = {name: slot for name, slot in slots.items() if not slot.filled}
    lost = [name for name, slot in empty.items() if slot.packing is not None]
    if lost:
        raise ModelError(
            f"{len(lost)} layers are in no file, such as {min(lost)}", where="model.name", remedy="copy the whole folder again"
        )
    for parameter in model.parameters():
        parameter._is_hf_initialized = True  # type: ignore[attr-defined]  # the mark by which transformers leaves a value alone
    for slot in set(empty.values()):
        slot.put(torch.zeros(slot.shape))
    for module in model.modules():
        vars(module).pop("_is_hf_initialized", None)  # set when the model was built, to no effect
    model.initialize_weights()
    ignored = [re.compile(p) for p in model._keys_to_ignore_on_load_missing or ()]
    return sorted(name for name in empty if not any(p.search(name) for p in ignored))


def _same(value: Tensor, here: Tensor) -> bool:
    pairs = zip(value.split(COMPARED), here.split(COMPARED), strict=True)
    return all(torch.equal(a.to(b.dtype), b) for a, b in pairs)


def _tensors(model: PreTrainedModel, files: Sequence[Path]) -> Iterator[tuple[str, Tensor]]:
    """Names in the model, by transformers' own tables of renamings, and values that are views of the mapped files."""
    changes = get_model_conversion_mapping(model)
    converters = [c for c in changes if isinstance(c, WeightConverter)]
    renamings: Any = [c for c in changes if not isinstance(c, WeightConverter)]
    state = model.state_dict()
    for path in files:
        with safe_open(path, framework="pt") as file:
            for key in file.keys():  # noqa: SIM118  (it is no dict)
                name, converted = rename_source_key(key, renamings, converters, model.base_model_prefix, state)
                if converted is not None:
                    raise ModelError(
                        f"the weights of a {model.config.model_type} model are put together anew on loading, which this cannot",
                        where="model.quantization",
                        remedy="set quantization: none",
                    )
                yield name, file.get_tensor(key)
        give_back_memory()  # packed weights stand among what was needed to pack them
