"""Examples to outputs, in ragged batches sorted by length: the one answering code.

Enters: a model, its layout and tokenised examples. Leaves: outputs in the order of the examples,
computed longest first, so that memory peaks at the start.
Evaluation during training, the final scores, `luthier predict` and baselines all come through here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from luthier.data.prepare import Record
from luthier.data.tokens import Tokens
from luthier.models.batch import Batch, collate, within_budget
from luthier.models.forward import Layout, hidden_states, pool
from luthier.models.several import Parts

Answer = Callable[[nn.Module, Batch], Tensor]
"""What a task asks of a batch: (segments, width)."""
Combine = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]
"""What a task makes of the answers for examples, (examples, width), and the record that owns each: (records, width)."""


def outputs(
    model: nn.Module,
    tokens: Tokens,
    layout: Layout,
    *,
    answer: Answer,
    max_tokens: int,
    above: Callable[[Batch], Batch] | None = None,
    combine: Combine | None = None,
) -> NDArray[np.float64]:
    """The answers for each record, (records, width); those of a record with several examples are summed, or as `combine` says.

    `above` lays beside a batch what its frozen layers give, where that was kept.
    """
    if isinstance(answer, Parts):
        assert combine is not None, "several tasks say how their figures become lines"
        return _of_parts(model, tokens, layout, answer, max_tokens, combine)
    found = _over(model, tokens, layout, max_tokens, lambda batch: answer(model, batch if above is None else above(batch)))
    if combine is not None:
        return combine(found, np.arange(len(found)) if tokens.owner is None else tokens.owner)
    if tokens.owner is None:
        return found
    whole = np.zeros((tokens.records(), found.shape[1]))
    np.add.at(whole, tokens.owner, found)
    return whole


def _of_parts(model: nn.Module, tokens: Tokens, layout: Layout, parts: Parts, max_tokens: int, combine: Any) -> NDArray[np.float64]:
    """The lines of several tasks, each of its own examples; the trunk runs once for an example of several."""
    owner = np.arange(len(tokens)) if tokens.owner is None else tokens.owner
    said: dict[str, dict[int, Tensor]] = {name: {} for name in parts.answers}
    with evaluating(model):
        for batch in _batches(model, tokens, layout, max_tokens):
            for name, (rows, answers) in parts(model, batch).items():
                said[name] |= zip(rows, answers.double().cpu(), strict=True)
    found, owners = [], []
    for own in said.values():
        places = sorted(own)
        found.append(torch.stack([own[place] for place in places]).numpy() if places else np.zeros((0, 1)))
        owners.append(owner[places])
    lines: NDArray[np.float64] = combine(found, owners)
    return lines


def combining(task: Any, records: Sequence[Record]) -> Combine | None:
    """How the task combines the answers for these records' examples; None where they are summed."""
    return task.combine(records) if hasattr(task, "combine") else None


def embeddings(model: nn.Module, tokens: Tokens, layout: Layout, *, max_tokens: int) -> NDArray[np.float64]:
    """Mean of the last hidden states, scaled to length 1, (examples, hidden size)."""

    def mean(batch: Batch) -> Tensor:
        return nn.functional.normalize(pool(hidden_states(model, batch, layout).float(), batch.segments, "mean"), dim=1)

    return _over(model, tokens, layout, max_tokens, mean)


def _over(model: nn.Module, tokens: Tokens, layout: Layout, max_tokens: int, answer: Callable[[Batch], Tensor]) -> NDArray[np.float64]:
    found: list[Tensor | None] = [None] * len(tokens)
    with evaluating(model):
        for batch in _batches(model, tokens, layout, max_tokens):
            for row, value in zip(batch.rows, answer(batch).double().cpu(), strict=True):
                found[row] = value
    return torch.stack([v for v in found if v is not None]).numpy()


def _batches(model: nn.Module, tokens: Tokens, layout: Layout, max_tokens: int) -> Iterator[Batch]:
    """All examples, longest first, on the model's device."""
    device = next(model.parameters()).device
    examples, padded = tokens.examples(), layout.kind == "padded"
    for rows in within_budget(range(len(examples)), tokens.lengths(), max_tokens, padded=padded, longest_first=True):
        yield collate([examples[r] for r in rows], rows, types=layout.token_types).to(device)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Eval mode without gradients; the mode is put back."""
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        model.train(training)
