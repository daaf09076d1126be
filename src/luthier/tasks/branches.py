"""Answers to one prompt as a tree: what they begin with alike once, then the rest of each.

Enters: the token sequences of a prompt with each of its answers. Leaves: one example with a layer that numbers its branches; and
of a batch of such examples, which segment holds which answer, and what is known of segments laid out by rows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

    from luthier.models.batch import Batch

LAST = -1
"""The branch whose figures stand in the last column: in kto the answer to another prompt."""


def joined(sequences: Sequence[Mapping[str, NDArray[Any]]], numbers: Sequence[int], *, most: int) -> dict[str, Any]:
    """Sequences, each with `input_ids` and marks of the same length, as one example whose branches are numbered.

    Its stem is what all begin with, at most `most` places; one sequence alone has none.
    """
    import numpy as np

    first, shared = sequences[0]["input_ids"], most if len(sequences) > 1 else 0
    for sequence in sequences[1:]:
        same = first[:shared] == sequence["input_ids"][:shared]
        shared = shared if same.all() else int(same.argmin())
    found = {
        name: np.concatenate([sequences[0][name][:shared], *(sequence[name][shared:] for sequence in sequences)]) for name in sequences[0]
    }
    sizes = [len(s["input_ids"]) - shared for s in sequences]
    return {**found, "branch": np.repeat([0, *numbers], [shared, *sizes])}


def table(batch: Batch, wide: int) -> tuple[Tensor, Tensor]:
    """The segment of each row's answers, (rows, wide), -1 where there is none; and the row of each segment, (segments,)."""
    import torch

    from luthier.models.batch import BRANCH

    numbers = {row: place for place, row in enumerate(dict.fromkeys(batch.rows))}
    places = [[-1] * wide for _ in numbers]
    for segment, (row, branch) in enumerate(zip(batch.rows, batch.layers[BRANCH][batch.segments.starts].tolist(), strict=True)):
        if branch:
            places[numbers[row]][branch - 1 if branch != LAST else -1] = segment
    device = batch.input_ids.device
    return torch.tensor(places, device=device), torch.tensor([numbers[r] for r in batch.rows], device=device)


def laid(values: Tensor, places: Tensor) -> Tensor:
    """(segments,) as (rows, wide), 0 where a row has no segment."""
    return values[places.clamp_min(0)] * (places >= 0)
