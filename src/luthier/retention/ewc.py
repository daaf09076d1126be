"""Elastic weight consolidation: weights that earlier rows depend on are held (Kirkpatrick et al. 2017, eq. 3).

    strength / 2 sum_i F_i (w_i - a_i)^2

where a are the weights at the last consolidation and F the diagonal of the Fisher information on the earlier rows: the
mean over examples of the squared gradient of the example's log-likelihood, of its own labels (the empirical Fisher). When
a curriculum consolidates again, F becomes decay * F + the new one, and a the weights of that moment: online EWC (Schwarz
et al. 2018, Progress & Compress, sec. 2.3). It holds whatever trains, so adapters too, at the values they start from.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import torch
from torch import Tensor, nn

from luthier.models.batch import Batch, Loss
from luthier.models.embedding import KeptEmbedding
from luthier.recipe.retention.ewc import EWCOptions
from luthier.retention.quadratic import distance
from luthier.retention.retention import Retention, Start, fresh_names, has_learned_tokens, moving, remember


class EWC(Retention):
    """The way."""

    copies, dense = 2, True
    options: EWCOptions

    def refusal(self, start: Start) -> str | None:
        """The model must be able to do the earlier task when training starts."""
        if self.options.data and fresh_names(start.loaded):
            return "the head starts at random, so what earlier rows depend on is noise; start from a model trained on them, or choose l2sp"
        if has_learned_tokens(start.loaded):
            return f"the tokens of {start.method.name} start at random: there is no earlier place to hold them to"
        return None

    def begin(self, start: Start) -> None:
        """Consolidate the starting weights on the earlier rows."""
        self.rounds = 0
        self.importance: dict[str, Tensor] = {}
        self.anchors: dict[str, Tensor] = {}
        if start.rows is None:
            return  # the stages of a curriculum bring the earlier rows
        self.consolidate(start.loaded.model, start.loss, start.rows.singly())

    def consolidate(self, model: nn.Module, loss: Callable[[nn.Module, Batch], Loss], batches: Iterable[Batch]) -> None:
        """Hold the weights of the moment, by what `batches` of one example each depend on.

        `loss` is the negative log-likelihood. No gradient may be there, and none is left. Raises ValueError for a batch of several
        examples, whose gradients could not be told apart, and for no batch at all.
        """
        found = fisher(model, loss, batches)
        kept = self.importance
        self.importance = {n: f if n not in kept else f.add_(kept[n], alpha=self.options.decay) for n, f in found.items()}
        self.anchors = remember(moving(model))
        self.rounds += 1

    def turn(self, start: Start, stage: str, batches: Callable[[], Iterable[Batch]]) -> None:
        """Consolidate on the stage that ended."""
        self.consolidate(start.loaded.model, start.loss, batches())

    def penalty(self, model: nn.Module, batch: Batch) -> Tensor | None:
        """The weighted distance."""
        parameters = moving(model)
        found = distance((parameters[n], a, self.importance[n]) for n, a in self.anchors.items() if n in parameters)
        return None if found is None else self.options.strength * found

    def state(self) -> dict[str, Tensor]:
        """What was consolidated after the start; the start itself is computed again."""
        if self.rounds <= bool(self.options.data):
            return {}
        found = {f"importance:{n}": t for n, t in self.importance.items()} | {f"anchor:{n}": t for n, t in self.anchors.items()}
        return found | {"rounds": torch.tensor([self.rounds])}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put it back."""
        if not state:
            return
        self.rounds = int(state["rounds"])
        for kind, own in (("importance:", self.importance), ("anchor:", self.anchors)):
            own.update({n.removeprefix(kind): t.clone() for n, t in state.items() if n.startswith(kind)})


def fisher(model: nn.Module, loss: Callable[[nn.Module, Batch], Loss], batches: Iterable[Batch]) -> dict[str, Tensor]:
    """For each weight that trains, the mean over examples of the squared gradient of the log-likelihood, in fp32.

    The model runs without dropout.
    """
    parameters = moving(model)
    found = {n: torch.zeros_like(p, dtype=torch.float32) for n, p in parameters.items()}
    tables = [m for m in model.modules() if isinstance(m, KeptEmbedding)]
    training, device, count = model.training, next(iter(parameters.values())).device, 0
    model.eval()
    try:
        for batch in batches:
            if batch.segments.count != 1:
                raise ValueError(f"a batch has {batch.segments.count} examples: the squares of their gradients could not be told apart")
            loss(model, batch.to(device)).sum.backward()
            for name, parameter in parameters.items():
                if parameter.grad is not None:
                    found[name].addcmul_(parameter.grad.float(), parameter.grad.float())
            _clear(parameters.values(), tables)
            count += 1
    finally:
        _clear(parameters.values(), tables)
        model.train(training)
    if not count:
        raise ValueError("no example to consolidate on")
    for value in found.values():
        value.div_(count)
    return found


def _clear(parameters: Iterable[nn.Parameter], tables: Iterable[KeptEmbedding]) -> None:
    """Forget the gradients; those of large tables stay as buffers of zeros."""
    kept = set()
    for table in tables:
        table.clear()
        kept.add(id(table.weight))
    for parameter in parameters:
        if id(parameter) not in kept:
            parameter.grad = None
