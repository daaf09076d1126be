"""Scores of written texts against references, from figures of each row that add up.

Enters: what a model wrote and what it should have written. Leaves: one line of figures a row, and from
any selection of rows the scores, so that intervals can be drawn over rows. BLEU (Papineni et al. 2002)
and chrF (Popović 2015) are sacrebleu's, ROUGE (Lin 2004) rouge-score's.
"""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.registry import load_callable, require

Array = NDArray[np.float64]
NAMES = ("exact_match", "token_f1", "rouge_1", "rouge_2", "rouge_l", "bleu", "chrf")
MEANS = 5
"""The first five are means over rows; BLEU and chrF come from summed counts."""


class TextScores:
    """The scores of a task, with a user's own ones behind them."""

    def __init__(self, scorers: Sequence[str] = ()) -> None:
        """`scorers` are module:callable paths. Raises LuthierError for one that cannot be loaded."""
        self._own: list[tuple[str, Callable[[str, str], float]]] = []
        for path in scorers:
            name = path.partition(":")[2] or path
            if name in NAMES or any(name == n for n, _ in self._own):
                raise LuthierError(f"two scores are named {name!r}", where="task.scorers", remedy="rename the function")
            self._own.append((name, load_callable(path, where="task.scorers")))
        bleu = require("sacrebleu.metrics", extra="text", purpose="scoring written texts")
        rouge = require("rouge_score.rouge_scorer", extra="text", purpose="scoring written texts")
        self._bleu, self._chrf = bleu.BLEU(), bleu.CHRF()
        self._rouge = rouge.RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)

    @property
    def names(self) -> tuple[str, ...]:
        """Every score, in order."""
        return (*NAMES, *(name for name, _ in self._own))

    def figures(self, written: Sequence[str], references: Sequence[Sequence[str]]) -> Array:
        """One line a row: (rows, width). Every row has one reference or more."""
        most = max(len(r) for r in references)
        columns = [[r[i] if i < len(r) else r[0] for r in references] for i in range(most)]
        bleu = self._bleu._extract_corpus_statistics(list(written), columns)
        chrf = self._chrf._extract_corpus_statistics(list(written), columns)
        lines = []
        for row, (text, gold) in enumerate(zip(written, references, strict=True)):
            rouge = [self._rouge.score(g, text) for g in gold]
            own = [max(_number(name, score(text, g)) for g in gold) for name, score in self._own]
            lines.append(
                [
                    float(any(normal(text) == normal(g) for g in gold)),
                    max(token_f1(text, g) for g in gold),
                    *(max(r[k].fmeasure for r in rouge) for k in ("rouge1", "rouge2", "rougeL")),
                    *own,
                    *bleu[row],
                    *chrf[row],
                ]
            )
        return np.array(lines, dtype=np.float64)

    def scores(self, gold: Any, figures: Array) -> dict[str, float]:
        """The scores of some rows; `gold` is not looked at, the figures hold it."""
        means, own = figures[:, :MEANS].mean(0), figures[:, MEANS : MEANS + len(self._own)].mean(0)
        counts = figures[:, MEANS + len(self._own) :].astype(int).tolist()
        cut = 2 + 2 * self._bleu.max_ngram_order
        found = dict(zip(NAMES, [*means.tolist(), 0.0, 0.0], strict=True))
        found["bleu"] = float(self._bleu._aggregate_and_compute([c[:cut] for c in counts]).score)
        found["chrf"] = float(self._chrf._aggregate_and_compute([c[cut:] for c in counts]).score)
        return {**found, **dict(zip([n for n, _ in self._own], own.tolist(), strict=True))}


def normal(text: str) -> str:
    """Lower case, without punctuation, articles and spare white space (Rajpurkar et al. 2016)."""
    bare = "".join(c for c in text.lower() if c not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", bare).split())


def token_f1(text: str, reference: str) -> float:
    """F1 of the words in common, after `normal`."""
    words, gold = normal(text).split(), normal(reference).split()
    if not words or not gold:
        return float(words == gold)
    common = sum((Counter(words) & Counter(gold)).values())
    return 2 * common / (len(words) + len(gold))


def _number(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        raise LuthierError(f"{name} gave {value!r}, not a number", where="task.scorers", remedy="return a float") from None
