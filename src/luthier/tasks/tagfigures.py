"""What was said of words, as figures: a line a record, from which any selection of records is scored.

Enters: for each record what the model says of its words, and their right tags as numbers. Leaves: lines with the counts
that scores are made of, and after them the tag of each word with its probability. Entities are counted as wholes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from luthier.data.tokens import UNGRADED
from luthier.tasks import tags as tagged
from luthier.tasks.tags import OUTSIDE, Scheme

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Array = NDArray[np.float64]

Kind = Literal["entities", "words"]
NATS, GRADED, RIGHT, COUNTS = range(4)
"""Columns of a line; from COUNTS on right, predicted and actual ones of each name, then two a word: tag, probability."""
FLOOR = 1e-4
"""Share that all tags have together in what the commonest tag says."""
AVERAGED = ("precision", "recall", "f1")


class Figures:
    """Lines for a kind and its tags. `scheme` is what the likeliest tags must keep to; None where each is chosen by itself."""

    def __init__(self, kind: Kind, labels: Sequence[str], *, scheme: Scheme | None) -> None:
        self.kind, self.labels, self.scheme = kind, tuple(labels), scheme
        entities = dict.fromkeys(tagged.parts(t)[1] for t in labels if t != OUTSIDE)
        self.names = tuple(entities) if kind == "entities" else self.labels
        """What is counted: types of entities, or tags."""

    @property
    def width(self) -> int:
        """Numbers that are said of a word: a logit a tag; or the likeliest tag, its probability, and the nats of the right one."""
        return len(self.labels) if self.kind == "entities" else 3

    @property
    def counts(self) -> int:
        """Columns before those of the words."""
        return COUNTS + 3 * len(self.names)

    def lines(self, values: Sequence[Array], targets: Sequence[Sequence[int] | None]) -> Array:
        """Lines for what is said of each record's words, (words, width) each; all counts are 0 where there is no target."""
        import numpy as np

        lengths = np.array([len(v) for v in values])
        laid = np.zeros((len(values), max(lengths), self.width))
        gold = np.full(laid.shape[:2], UNGRADED)
        for i, (own, target) in enumerate(zip(values, targets, strict=True)):
            laid[i, : len(own)] = own
            if target is not None:
                gold[i, : len(target)] = target
        said, sure, costs = self._chosen(laid, lengths, gold)
        real = gold >= 0
        lines = np.zeros((len(values), self.counts + 2 * laid.shape[1]))
        lines[:, NATS], lines[:, GRADED], lines[:, RIGHT] = (costs * real).sum(1), real.sum(1), ((said == gold) & real).sum(1)
        for i in np.flatnonzero(real.any(1)).tolist():
            lines[i, COUNTS : self.counts] = self._counted(said[i, : lengths[i]], gold[i, : lengths[i]])
        lines[:, self.counts :] = np.stack([said, sure], -1).reshape(len(values), -1)
        return lines

    def _chosen(self, laid: Array, lengths: NDArray[np.int64], gold: NDArray[np.int64]) -> tuple[NDArray[np.int64], Array, Array]:
        """The tag of each word, its probability, and the nats of the right one, each (records, longest)."""
        import numpy as np

        if self.kind == "words":
            return laid[..., 0].astype(np.int64), laid[..., 1], laid[..., 2]
        logs = laid - laid.max(-1, keepdims=True)
        logs -= np.log(np.exp(logs).sum(-1, keepdims=True))
        said = logs.argmax(-1) if self.scheme is None else tagged.likeliest(logs, lengths, self.labels, self.scheme)

        def of(numbers: NDArray[np.int64]) -> Array:
            return np.take_along_axis(logs, numbers[..., None], -1)[..., 0]

        return said, np.exp(of(said)), -of(np.maximum(gold, 0))

    def _counted(self, said: NDArray[np.int64], gold: NDArray[np.int64]) -> Array:
        """Right, predicted and actual ones of each name, (3 * names,)."""
        import numpy as np

        if self.kind == "words":
            held = gold >= 0
            parts = (gold[held & (said == gold)], said[held], gold[held])
            return np.concatenate([np.bincount(p, minlength=len(self.names)) for p in parts]).astype(float)
        predicted, actual = (set(tagged.entities(self.tags(row))) for row in (said, gold))
        counts = [Counter(e.label for e in found) for found in (predicted & actual, predicted, actual)]
        return np.array([c[name] for c in counts for name in self.names], dtype=float)

    def tags(self, numbers: Sequence[int] | NDArray[Any]) -> list[str]:
        """Tags by name; "" where none is known."""
        return [self.labels[int(n)] if n >= 0 else "" for n in numbers]

    def said(self, line: Array, words: int) -> tuple[list[str], list[float]]:
        """The tag of each of a record's words, and its probability."""
        pairs = line[self.counts :].reshape(-1, 2)[:words]
        return self.tags(pairs[:, 0]), pairs[:, 1].tolist()

    def scores(self, lines: Array) -> dict[str, float]:
        """Entities: precision, recall and F1 over all and of each type. Words: accuracy, and averages over tags. Both: loss a word."""
        import numpy as np

        from luthier.tasks.metrics import precision_recall_f1

        whole = lines[:, : self.counts].sum(0)
        graded, counts = max(whole[GRADED], 1.0), whole[COUNTS:].reshape(3, -1)
        found = {"loss": float(whole[NATS] / graded), "accuracy": float(whole[RIGHT] / graded)}
        each, present = precision_recall_f1(*counts), counts[1] + counts[2] > 0
        macro = {f"{n}_macro": float(v[present].mean()) if present.any() else 0.0 for n, v in zip(AVERAGED, each, strict=True)}
        if self.kind == "words":
            return {**found, **macro, "sentence_accuracy": float(np.mean(lines[:, RIGHT] >= lines[:, GRADED]))}
        micro = precision_recall_f1(*counts.sum(1, keepdims=True))
        found |= {n: float(v[0]) for n, v in zip(AVERAGED, micro, strict=True)}
        return {**found, "f1_macro": macro["f1_macro"], **{f"f1/{n}": float(v) for n, v in zip(self.names, each[2], strict=True)}}

    def classes(self, lines: Array) -> list[dict[str, Any]]:
        """Precision, recall, F1 and number of each name, weakest first."""
        from luthier.tasks.metrics import precision_recall_f1

        counts = lines[:, COUNTS : self.counts].sum(0).reshape(3, -1)
        each = zip(self.names, *precision_recall_f1(*counts), counts[2], strict=True)
        rows = [{"label": n, "precision": p, "recall": r, "f1": f, "n": int(k)} for n, p, r, f, k in each]
        return sorted(rows, key=lambda row: (row["f1"], row["label"]))

    def row_loss(self, lines: Array) -> Array:
        """How wrong each row is, in [0, 1]: its share of wrong words, or 1 - F1 of its entities."""
        import numpy as np

        if self.kind == "words":
            return 1 - lines[:, RIGHT] / np.maximum(lines[:, GRADED], 1)
        right, predicted, actual = np.moveaxis(lines[:, COUNTS : self.counts].reshape(len(lines), 3, -1).sum(-1), -1, 0)
        return np.where(predicted + actual > 0, 1 - 2 * right / np.maximum(predicted + actual, 1), 0.0)

    def commonest(
        self, train: Sequence[tuple[Sequence[str], Sequence[int]]], asked: Sequence[tuple[Sequence[str], Sequence[int]]], *, by_word: bool
    ) -> Array:
        """Lines for the commonest tag of the training words, or `by_word` of each word, case aside, where training has it."""
        import numpy as np

        seen: dict[str, Array] = {}
        whole = np.zeros(len(self.labels))
        for words, numbers in train:
            for word, number in zip(words, numbers, strict=True):
                if number >= 0:
                    whole[number] += 1
                    seen.setdefault(word.casefold(), np.zeros(len(self.labels)))[number] += 1
        found = []
        for words, numbers in asked:
            shares = np.stack([seen.get(w.casefold(), whole) if by_word else whole for w in words])
            logs = np.log((1 - FLOOR) * shares / shares.sum(1, keepdims=True) + FLOOR / len(self.labels))
            if self.kind == "words":
                right = np.maximum(np.array(numbers), 0)
                logs = np.stack([logs.argmax(1), np.exp(logs.max(1)), -np.take_along_axis(logs, right[:, None], 1)[:, 0]], 1)
            found.append(logs)
        return self.lines(found, [numbers for _, numbers in asked])
