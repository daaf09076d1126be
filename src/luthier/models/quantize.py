"""Loading a frozen base in 8 or 4 bits, one tensor at a time.

Enters: a `Source`, its config and the `model` section. Leaves: a model whose linear layers inside the stacks are
packed (`models/packed.py`); its table and output head are bf16 where the machine has it, all else is fp32. Each
tensor is read from the mapped checkpoint, packed and forgotten (`models/hollow.py`), so that memory peaks at the
packed size and about one tensor more.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import GenerationConfig, PreTrainedConfig, PreTrainedModel

from luthier.errors import ModelError
from luthier.models import hollow
from luthier.models.adapters.injected import linears
from luthier.models.adapters.streaming import shards
from luthier.models.host import cpu_has_bf16
from luthier.registry import require

if TYPE_CHECKING:
    from luthier.models.load import Loaded
    from luthier.models.source import Source
    from luthier.recipe.sections import Model

Precision = Literal["auto", "fp32", "bf16", "fp16"]
WHERE = "model.quantization"


@dataclass
class Streamed:
    """A model, the parameters that are in no file and start at random, and what is worth telling."""

    model: PreTrainedModel
    drawn: list[str]
    notes: list[str]


def refuse(section: Model, *, adapter: bool, method: str) -> None:
    """Raise ModelError where a quantised base cannot be what the recipe asks for; `adapter` says that the method leaves it alone."""
    if section.quantization == "none":
        return
    if section.from_scratch is not None:
        raise ModelError(
            "a new model has no weights to quantise", where=WHERE, remedy="set quantization: none, or name a model that has learned"
        )
    if not adapter:
        raise ModelError(
            f"method {method} moves weights of the base, and quantised ones do not move",
            where=WHERE,
            remedy="set method: lora (or another adapter), or quantization: none",
        )


def stream(
    source: Source, config: PreTrainedConfig, section: Model, *, auto: Any, precision: Precision = "auto", finished: bool = False
) -> Streamed:
    """Load the model of `source`, packed as `section` says; `auto` is the class of transformers that builds it.

    With `finished`, weights of another shape are refused rather than drawn. Raises ModelError for what cannot be
    packed, DependencyError without bitsandbytes.
    """
    require("bitsandbytes", extra="quantization", purpose=f"{WHERE}: {section.quantization}")
    if getattr(config, "quantization_config", None) is not None:
        raise ModelError("its weights are quantised already", where=f"model {source.name}", remedy="give the model in full precision")
    model = hollow.build(auto, config)
    packed, left = _put_layers(model, section)
    slots = hollow.slots_of(model, tables=torch.bfloat16 if _narrow(precision) else torch.float32)
    hollow.fill(model, slots, _files(source), finished=finished)
    drawn = hollow.draw(model, slots)
    if any(t.is_meta for t in (*model.parameters(), *model.buffers())):
        raise ModelError(f"a {config.model_type} model cannot be loaded piece by piece", where=WHERE, remedy="set quantization: none")
    _widen(model)
    setattr(model, f"is_loaded_in_{section.quantization}", True)  # PEFT asks for this
    notes = [f"{packed} linear layers are in {section.quantization[0]} bits; the table of tokens is {_kind(model)}"]
    if left:
        notes.append(f"{len(left)} linear layers are not packed, such as {left[0]}: their width is no multiple of 64, or they must not be")
    if model.can_generate():
        _generation(model, source)
        if not torch.cuda.is_available():
            notes.append("a quantised model writes slowly on a CPU: `luthier merge` makes a whole copy of a trained one to write with")
    return Streamed(model.eval(), drawn, notes)


def facts(loaded: Loaded) -> dict[str, Any]:
    """How a base was quantised, for the record of its adapters; empty where it was not."""
    if loaded.quantization == "none":
        return {}
    states = [s for p in loaded.trunk.parameters() if (s := getattr(p, "quant_state", None)) is not None]
    nested = bool(states[0].nested) if states else True
    return {"quantization": loaded.quantization, "double_quantization": nested, "precision": _kind(loaded.trunk)}


def is_quantised(model: nn.Module) -> bool:
    """Whether some weights are packed."""
    return any(not p.is_floating_point() for p in model.parameters())


def widen_adapters(trunk: PreTrainedModel) -> None:
    """Put adapters in fp32: PEFT makes some in the precision of the products beside them."""
    tables = {id(m.weight) for m in (trunk.get_input_embeddings(), trunk.get_output_embeddings()) if m is not None}
    for tensor in (*trunk.parameters(), *trunk.buffers()):
        if tensor.is_floating_point() and tensor.dtype != torch.float32 and id(tensor) not in tables:
            tensor.data = tensor.data.float()


def _narrow(precision: Precision) -> bool:
    """Whether tables and heads are bf16: where the machine has it, unless fp32 is asked for."""
    return precision == "bf16" or (precision == "auto" and (cpu_has_bf16() or torch.cuda.is_available()))


def _kind(model: Any) -> Precision:
    return "bf16" if model.get_input_embeddings().weight.dtype == torch.bfloat16 else "fp32"


def _put_layers(model: PreTrainedModel, section: Model) -> tuple[int, list[str]]:
    """Put empty packed layers in the place of linear ones; how many, and the names of those that stay."""
    from luthier.models.packed import BLOCK, Packed4, Packed8, shape_of

    kept = {*(model._keep_in_fp32_modules or ()), *(model._keep_in_fp32_modules_strict or ())}
    uses = Counter(id(p) for _, p in model.named_parameters(remove_duplicate=False))
    left: list[str] = []
    found: dict[str, nn.Module] = linears(model)
    for name, layer in found.items():
        parent, _, attribute = name.rpartition(".")
        # the 4-bit kernel for CPUs takes the scale of the wrong block where rows are not whole blocks
        ragged = section.quantization == "4bit" and shape_of(layer)[1] % BLOCK
        if ragged or uses[id(layer.weight)] > 1 or kept & set(name.split(".")):
            left.append(name)
        else:
            made = Packed8(layer) if section.quantization == "8bit" else Packed4(layer, nested=section.double_quantization)
            setattr(model.get_submodule(parent), attribute, made)
    if len(left) == len(found):
        raise ModelError(
            f"this {model.config.model_type} model has no layer that can be packed in {section.quantization}",
            where=WHERE,
            remedy="set quantization: none",
        )
    return len(found) - len(left), left


def _files(source: Source) -> list[Path]:
    if source.local is not None:
        return shards(source.local)
    from huggingface_hub import snapshot_download

    return shards(Path(snapshot_download(source.location, revision=source.revision, allow_patterns=["*.safetensors", "*.json"])))


def _widen(model: PreTrainedModel) -> None:
    """Let bf16 tables give fp32, and bf16 heads compute in it: between layers everything is fp32."""
    from luthier.models.packed import WideLinear

    def wide(_: nn.Module, __: Any, output: Tensor) -> Tensor:
        return output.float()

    for module in model.modules():
        if getattr(module, "weight", None) is None or module.weight.dtype != torch.bfloat16:
            continue
        if isinstance(module, nn.Embedding):
            module.register_forward_hook(wide)
        elif type(module) is nn.Linear:
            module.__class__ = WideLinear


def _generation(model: PreTrainedModel, source: Source) -> None:
    """The model's own settings for writing, where it has some."""
    try:
        model.generation_config = GenerationConfig.from_pretrained(source.location, revision=source.revision or "main")
    except OSError:
        return  # it has none: those made from its config stand
