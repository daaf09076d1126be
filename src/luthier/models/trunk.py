"""The frozen bottom of a model, computed once: what it gives for a text is the same in every epoch.

Enters: a model whose embeddings and bottom layers are frozen and run without dropout. Leaves: a `Trunk`, which
computes what the bottom gives for a batch, and a model whose forward starts above the bottom when a batch
carries that (`Batch.trunk`, one row a token; or `Batch.pooled`, one row a text, where nothing but a head on
pooled states is left to train). Without it the model is untouched. Keeping it is the work of `models/kept.py`.
"""

from __future__ import annotations

import functools
import hashlib
import json
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutputWithPooling

from luthier.models.adapters.method import layer_lists
from luthier.models.batch import Batch, collate
from luthier.models.forward import Layout, difference, hidden_states, pool, pooled_logits, trunk_of
from luthier.models.heads import Head

TRIAL_LENGTHS = (4, 6, 6, 9)


class _Reached(Exception):
    """Carries the states out of a forward pass that need not go on."""

    def __init__(self, states: Tensor) -> None:
        self.states = states


@dataclass(frozen=True)
class Trunk:
    """The frozen bottom of `model`: its embeddings and `layers`; with `pooled` all that is below the head."""

    model: nn.Module
    layout: Layout
    layers: tuple[nn.Module, ...]
    pooled: bool

    @property
    def width(self) -> int:
        """Size of a row."""
        return int(self.model.config.get_text_config().hidden_size)  # type: ignore[union-attr, operator]

    @property
    def dtype(self) -> torch.dtype:
        """The precision in which the model computes."""
        return next(p.dtype for p in self.layers[-1].parameters() if p.is_floating_point())

    @torch.no_grad()
    def states(self, batch: Batch) -> Tensor:
        """What the bottom gives: (tokens, width), or (segments, width) where pooled."""
        if self.pooled:
            return pool(hidden_states(self.model, batch, self.layout), batch.segments, self.layout.pooling)
        hook = self.layers[-1].register_forward_hook(_leave)
        try:
            hidden_states(self.model, batch, self.layout)
        except _Reached as reached:
            return reached.states
        finally:
            hook.remove()
        raise AssertionError("the frozen layers are part of every forward pass")

    def above(self, batch: Batch, states: Tensor) -> Batch:
        """The batch with what the bottom gives for it, so that the model starts above."""
        states = states.to(device=batch.input_ids.device, dtype=self.dtype)
        return replace(batch, pooled=states) if self.pooled else replace(batch, trunk=states)

    def digest(self) -> str:
        """SHA-256 over the config, and every weight and buffer of the bottom, by name."""
        digest = hashlib.sha256()
        config = {k: v for k, v in trunk_of(self.model).config.to_dict().items() if k != "_name_or_path"}  # type: ignore[union-attr, operator]
        digest.update(json.dumps([config, vars(self.layout), len(self.layers), self.pooled], sort_keys=True, default=str).encode())
        base = trunk_of(self.model)
        upper = {id(t) for layer in layer_lists(base)[0][len(self.layers) :] for t in [*layer.parameters(), *layer.buffers()]}
        free = {id(p) for p in base.parameters() if p.requires_grad}
        for name, tensor in [*base.named_parameters(), *base.named_buffers()]:
            if id(tensor) not in upper | free:
                digest.update(name.encode())
                digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest.hexdigest()


def find(model: nn.Module, layout: Layout, head: Head, *, bottom: int) -> Trunk | str:
    """The frozen bottom of `bottom` layers, with the model made to start above it; or why it cannot be kept.

    Decided by trial, on a few random tokens: what the bottom gives may not change from one pass to the next nor
    be trained, and starting above it must give what the whole model gives.
    """
    base = trunk_of(model)
    stacks = layer_lists(base)
    if head.kind == "pairs" or len(stacks) != 1:
        return "an encoder-decoder has two bottoms" if len(stacks) > 1 else "its layers do not stand in one stack"
    if bottom < 1:
        return "no bottom layer is frozen"
    if layout.kind != "ragged":
        return f"batches are padded: {layout.reason}"
    layers = tuple(stacks[0][:bottom])
    if any(p.requires_grad for layer in layers for p in layer.parameters()):
        return "some weights of the bottom layers train"
    pooler = {id(p) for p in getattr(base, "pooler", None).parameters()} if getattr(base, "pooler", None) is not None else set()  # type: ignore[union-attr]
    pooled = head.kind == "classes" and all(id(p) in pooler or not p.requires_grad for p in base.parameters())
    trunk = Trunk(model, layout, layers, pooled)
    targets = (base,) if pooled else layers
    for module in targets:
        module.forward = _StartAbove(module)  # type: ignore[method-assign]
    reason = _trial(trunk, head)
    if reason:
        for module in targets:
            del module.forward
    return reason or trunk


def _leave(module: nn.Module, inputs: Any, output: Any) -> None:
    """A forward hook that ends the pass."""
    raise _Reached(output[0] if output.ndim == 3 else output)


class _StartAbove:
    """A module's forward that returns at once when a call carries what it would give; a copied module takes it along."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.compute = module, module.forward
        functools.update_wrapper(self, self.compute)

    def __call__(self, *given: Any, **named: Any) -> Any:
        if (states := named.get("trunk")) is not None:
            return states
        if (states := named.get("pooled")) is not None:
            pooler: Any = getattr(self.module, "pooler", None)
            last = states[:, None]
            return BaseModelOutputWithPooling(last_hidden_state=last, pooler_output=None if pooler is None else pooler(last))
        return self.compute(*given, **named)


def _trial(trunk: Trunk, head: Head) -> str:
    """Empty where the bottom can be kept, else why not."""
    model, layout = trunk.model, trunk.layout
    device, training = next(model.parameters()).device, model.training
    vocabulary = model.config.get_text_config().vocab_size  # type: ignore[union-attr, operator]
    draw = torch.Generator().manual_seed(0)
    examples = [{"input_ids": torch.randint(min(5, vocabulary - 1), vocabulary, (n,), generator=draw).tolist()} for n in TRIAL_LENGTHS]
    batch = collate(examples, types=layout.token_types).to(device)

    def answers(given: Batch) -> Tensor:
        return pooled_logits(model, given, layout) if trunk.pooled else hidden_states(model, given, layout)

    try:
        model.train()
        first, second = trunk.states(batch), trunk.states(batch)
        if not torch.equal(first, second):
            return "its bottom draws at random in training"
        model.eval()
        with torch.no_grad():
            distance = difference(answers(trunk.above(batch, first)), answers(batch))
        states = hidden_states(model, batch, layout) if trunk.pooled else _with_graph(trunk, batch)
        if states.requires_grad:
            return "something below the frozen layers trains"
    except Exception as error:  # any architecture may fail in its own way: then its bottom is computed each time
        return f"{type(error).__name__}: {str(error).strip()[:160]}"
    finally:
        model.train(training)
    return (
        "" if distance <= (1e-5 if first.dtype == torch.float32 else 5e-2) else f"starting above it gives something else, by {distance:.1e}"
    )


def _with_graph(trunk: Trunk, batch: Batch) -> Tensor:
    """The bottom's output with its graph, if it has one."""
    found: list[Tensor] = []
    hook = trunk.layers[-1].register_forward_hook(lambda module, inputs, output: found.append(output))
    try:
        hidden_states(trunk.model, batch, trunk.layout)
    finally:
        hook.remove()
    return found[-1]
