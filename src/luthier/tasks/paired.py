"""What the columns of texts that belong together hold, and how such texts become examples.

Enters: cells, or the tokens of single texts. Leaves: the kind of a data set, its texts and scores, and examples that
hold several texts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.rows import Rows
from luthier.errors import DataError

if TYPE_CHECKING:
    from luthier.recipe.sections import Data

HIGHEST = (1.0, 5.0)
"""Scores run from 0 to one of these."""
NUMERIC = 0.9
"""Share of a label column's cells from which on it is one of scores."""


def kind_of(data: Data, train: Rows, negatives: Sequence[str]) -> str:
    """What the columns hold. Raises DataError where there is neither a second text nor a class."""
    labelled = data.label in train.columns
    if data.text_pair is None and not labelled:
        raise DataError(
            "there is neither a second text nor a class",
            where="data.text_pair",
            remedy=f"name the column of texts that belong to data.text, or of classes in data.label; there are: {named(train.columns)}",
        )
    if data.text_pair is None:
        return "classes"
    if negatives:
        return "triplets"
    numbers = [number(row.values.get(str(data.label))) is not None for row in train.rows] if labelled else []
    return "scored" if numbers and sum(numbers) > NUMERIC * len(numbers) else "pairs"


def named(columns: Sequence[str]) -> str:
    """Columns for a message."""
    return ", ".join(map(repr, columns[:20]))


def number(value: Any) -> float | None:
    """The finite number of a cell; None where it holds none."""
    try:
        found = float(value)
    except (TypeError, ValueError):
        return None
    return found if math.isfinite(found) else None


def highest(values: Sequence[Any]) -> float:
    """Where the scale of the scores ends. Raises DataError for one that is none of the known."""
    numbers = [n for v in values if (n := number(v)) is not None]
    top, bottom = max(numbers, default=0.0), min(numbers, default=0.0)
    known = next((h for h in HIGHEST if top <= h), None)
    if known is None or bottom < 0:
        raise DataError(
            f"scores go from {bottom:g} to {top:g}", where="data.label", remedy="give scores from 0 to 1 or from 0 to 5, higher for nearer"
        )
    return known


def cells(value: Any) -> list[Any]:
    """The texts of a cell: none, one, or a list of them."""
    if value is None or value == "":
        return []
    return list(value) if isinstance(value, list) else [value]


def numbered(names: Sequence[str]) -> list[int]:
    """A number for each name, in the order in which they first come."""
    known: dict[str, int] = {}
    return [known.setdefault(name, len(known)) for name in names]


def paired(classes: Sequence[int], partners: int) -> list[tuple[int, int]]:
    """Each text with the next ones of its class, in an order drawn once; one alone is its own partner, under another dropout."""
    by_class: dict[int, list[int]] = {}
    for index, group in enumerate(classes):
        by_class.setdefault(group, []).append(index)
    pairs = []
    for group, members in by_class.items():
        random.Random(group).shuffle(members)
        size = len(members)
        steps = range(1, min(partners, size - 1) + 1) if size > 1 else [0]
        pairs += [(members[i], members[(i + step) % size]) for step in steps for i in range(size)]
    return pairs


def joined(texts: Sequence[Mapping[str, Any]], marks: Sequence[int]) -> dict[str, Any]:
    """Several texts as one example: `part` numbers them, `mark` tells which are the same."""
    import numpy as np

    sizes = [len(t["input_ids"]) for t in texts]
    example = {name: np.concatenate([t[name] for t in texts]) for name in texts[0]}
    return example | {"part": np.repeat(np.arange(len(texts)), sizes), "mark": np.repeat(marks, sizes)}
