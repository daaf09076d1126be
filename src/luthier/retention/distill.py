"""Distillation from the starting model: it goes on answering as it did (Li and Hoiem 2016, Learning without Forgetting).

    strength T^2 KL(start || now)

a mean over the rows of a batch, or over the graded places of token tasks, on the training batch or on replay rows. The
starting model is this one with the starting values of what trains put in for a moment, in eval mode: with adapters these are a
few megabytes, so that no second model is held. Labels that the starting model did not have are left out of account. Of
several heads, those that have learned in an earlier stage answer alike for the rows of every task. A head that starts at
random has no answers worth keeping; then the last hidden states stay alike, by half their mean squared difference (Jung et
al. 2016, Less-forgetting Learning, eq. 2).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from luthier.models.batch import Batch
from luthier.models.forward import hidden_states, place_logits, pool, pooled_logits, trunk_of
from luthier.models.heads import Head
from luthier.models.language import graded, head_of
from luthier.models.reference import having
from luthier.models.several import Heads
from luthier.recipe.retention.distill import DistillOptions
from luthier.retention import divergence
from luthier.retention.retention import Retention, Start, fresh_names, has_learned_tokens, moving, remember

TAUGHT = "taught."
"""Marks in what is saved the heads that have learned."""
PLACES = ("causal", "pairs", "masked")
"""Heads over the vocabulary."""
CLASSES: dict[str, Callable[[Tensor, Tensor, float], Tensor]] = {
    "single_label_classification": divergence.of_classes,
    "multi_label_classification": divergence.of_labels,
    "regression": divergence.of_numbers,
}


class Distill(Retention):
    """The way."""

    remembers = "values"
    copies = 1
    options: DistillOptions

    def __init__(self, options: DistillOptions, *, seed: int = 0) -> None:
        super().__init__(options, seed=seed)
        self.taught: set[str] = set()

    def refusal(self, start: Start) -> str | None:
        """The starting model must have something to say, and training must be able to change it."""
        if has_learned_tokens(start.loaded):
            return f"the tokens of {start.method.name} start at random: the model with them is not the one to stay alike"
        if self.options.on == "logits" and (reason := _no_answers(start)):
            return f"{reason}; set on: hidden"
        trunk = trunk_of(start.loaded.model)
        if self._kind(start) != "logits" and not any(p.requires_grad for p in trunk.parameters()):
            return "only heads train, so that hidden states stay as they are without it"
        return None

    def begin(self, start: Start) -> None:
        """Remember the starting values of what trains."""
        self.start, self.step, self.on = start, 0, self._kind(start)
        self.values = remember(moving(start.loaded.model))
        if self.on == "heads" and not self.turned:
            fresh = fresh_names(start.loaded)
            self.taught = {n for n in _comparable(start) if not any(f.startswith(f"head.{n}.") for f in fresh)}

    def turn(self, start: Start, stage: str, batches: Callable[[], Iterable[Batch]]) -> None:
        """From here on the stage's head has answers worth keeping."""
        super().turn(start, stage, batches)
        self.taught |= {stage} & set(_comparable(start))

    def state(self) -> dict[str, Tensor]:
        """With the names of the heads that have learned."""
        return super().state() | {f"{TAUGHT}{n}": torch.ones(()) for n in self.taught if self.turned}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from `state`."""
        self.taught |= {n.removeprefix(TAUGHT) for n in state if n.startswith(TAUGHT)}
        super().load_state({n: t for n, t in state.items() if not n.startswith(TAUGHT)})

    def before_update(self, step: int) -> None:
        """Other replay rows for each update."""
        self.step = step

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """The divergence of the batch, or of as many replay rows."""
        start = self.start
        if start.rows is not None:
            padded = start.loaded.layout.kind == "padded"
            batch = start.rows.drawn(batch.rows, seed=self.seed, step=self.step, max_tokens=start.max_tokens, padded=padded)
            batch = batch.to(next(model.parameters()).device)
        if self.on == "heads":
            found, count = self._of_heads(model, batch)
        elif self.on == "hidden":
            found, count = self._of_hidden(model, batch)
        elif start.loaded.head.kind in PLACES:
            found, count = self._of_places(model, batch)
        else:
            found, count = self._of_rows(model, batch)
        return None if found is None else self.options.strength * found / count

    def _kind(self, start: Start) -> Literal["logits", "hidden", "heads"]:
        if self.options.on != "auto":
            return self.options.on
        if _comparable(start):
            return "heads"
        return "hidden" if _no_answers(start) else "logits"

    def _of_hidden(self, model: nn.Module, batch: Batch) -> tuple[Tensor | None, int]:
        layout = self.start.loaded.layout
        with having(model, self.values):
            before = hidden_states(model, batch, layout).float()
        now = hidden_states(model, batch, layout).float()
        return (now - before).square().sum() / 2, now.numel()

    def _of_heads(self, model: nn.Module, batch: Batch) -> tuple[Tensor | None, int]:
        """The sum over heads of each one's mean."""
        if not self.taught:
            return None, 0
        layout, parts, heat = self.start.loaded.layout, _comparable(self.start), self.options.temperature

        def answers() -> dict[str, Tensor]:
            states = hidden_states(model, batch, layout)
            pooled = pool(states, batch.segments, layout.pooling)
            return {n: model.head[n](pooled if parts[n].kind == "classes" else states).float() for n in sorted(self.taught)}  # type: ignore[index, operator]

        with having(model, self.values):
            before = answers()
        now = answers()
        kinds = {n: parts[n].problem_type or "single_label_classification" for n in now}
        return torch.stack([CLASSES[kinds[n]](now[n], before[n], heat) / len(now[n]) for n in now]).sum(), 1

    def _of_rows(self, model: nn.Module, batch: Batch) -> tuple[Tensor | None, int]:
        loaded = self.start.loaded
        with having(model, self.values):
            before = pooled_logits(model, batch, loaded.layout).float()
        now = pooled_logits(model, batch, loaded.layout).float()
        if loaded.grown is not None:  # of labels that are new there is no answer to keep
            known = [i for i in range(now.shape[1]) if i not in loaded.grown.new.values()]
            before, now = before[:, known], now[:, known]
        return CLASSES[loaded.head.problem_type or ""](now, before, self.options.temperature), len(now)

    def _of_places(self, model: nn.Module, batch: Batch) -> tuple[Tensor | None, int]:
        layout, heat = self.start.loaded.layout, self.options.temperature
        places, _ = graded(batch)
        if not len(places):
            return None, 0
        if self.start.loaded.head.kind == "masked":
            with having(model, self.values):
                before = place_logits(model, batch, layout, places).float()
            return divergence.of_classes(place_logits(model, batch, layout, places).float(), before, heat), len(places)
        with having(model, self.values):
            states, head = hidden_states(model, batch, layout).index_select(0, places), head_of(model)
            head = head._replace(weight=head.weight.detach(), bias=None if head.bias is None else head.bias.detach())
        now = hidden_states(model, batch, layout).index_select(0, places)
        return divergence.of_tokens(now, head_of(model), states, head, heat), len(places)


def _comparable(start: Start) -> dict[str, Head]:
    """Of several heads on the trunk, those whose answers are compared here."""
    heads = getattr(start.loaded.model, "head", None)
    return {n: p for n, p in heads.parts.items() if p.kind in ("classes", "words")} if isinstance(heads, Heads) else {}


def _no_answers(start: Start) -> str | None:
    """Why the head's answers at the start are not worth keeping; None where they are."""
    head = start.loaded.head
    if head.kind not in PLACES and (head.kind != "classes" or head.problem_type not in CLASSES):
        return f"the answers of a {head.kind} head are not compared here"
    if fresh_names(start.loaded):
        return "the head starts at random, and its answers with it"
    return None
