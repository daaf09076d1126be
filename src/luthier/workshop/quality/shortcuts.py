"""Shortcuts: a single token, or the length, that gives the label away.

Enters: texts and labels. Leaves: findings for tokens that stand nearly always with one label, and for labels whose texts are
longer or shorter than the others'. Words that carry the meaning do so too, rightly; what a person has to ask is whether the token
would say as much in the texts to come. Each token is tested against each label (Fisher's exact test, one-sided), each label's length
against the others' (Mann-Whitney); p-values are corrected for all tests made (Holm 1979).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.workshop.quality.finding import Finding, ranked
from luthier.workshop.quality.ngrams import Presence, presence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ALPHA = 0.01
PURE = 0.9
"""The share of a token's rows that carry one label, from which on it gives the label away."""
FEWEST = 5
"""Rows that a token must be in."""
APART = 0.7
"""How often a text of the label is longer (or shorter) than one without it."""
_PLAIN = re.compile(r"[a-z]{3,}")
_WORD = re.compile(r"\w+")


def shortcuts(texts: Sequence[str], gold: NDArray[np.int64], names: Sequence[str], *, among: Presence | None = None) -> list[Finding]:
    """Tokens and lengths that give a label away; the score is the information on the label in bits a row (mutual information)."""
    import numpy as np

    held = among if among is not None else presence(texts, longest=1, fewest=FEWEST)
    tokens = held.single()
    counts = held.by_label(gold, len(names))[tokens]
    of_label = np.bincount(gold, minlength=len(names))
    p = _fisher(counts, of_label)
    sizes = np.array([len(_WORD.findall(t)) for t in texts])
    lengths = [_longer(sizes, gold == label) for label in range(len(names))]
    adjusted = holm(np.concatenate([p.ravel(), [found[1] for found in lengths]]))
    by_token, by_length = adjusted[: p.size].reshape(p.shape), adjusted[p.size :]
    found = []
    for place, label in zip(*np.nonzero((by_token < ALPHA) & (counts >= PURE * counts.sum(1, keepdims=True))), strict=True):
        with_it, all_of_it = int(counts[place].sum()), int(counts[place, label])
        token = held.names[tokens[place]]
        kind = "" if _PLAIN.fullmatch(token) else ", though it is no word"
        reason = (
            f"{token!r} gives away {names[label]}{kind}: {all_of_it} of its {with_it} rows ({all_of_it / with_it:.0%}; of all rows "
            f"{of_label[label] / len(gold):.0%}), {of_label[label]} rows carry the label, adjusted p {by_token[place, label]:.1g}"
        )
        rows = tuple(held.rows(int(tokens[place])).tolist())
        found.append(Finding("shortcut", rows, _information(np.stack([counts[place], of_label - counts[place]])), reason))
    for label, (auc, _) in enumerate(lengths):
        if by_length[label] < ALPHA and max(auc, 1 - auc) >= APART:
            what = "longer" if auc > 0.5 else "shorter"
            told = f"adjusted p {by_length[label]:.1g}"
            reason = f"texts labelled {names[label]} are {what} in {max(auc, 1 - auc):.0%} of pairs with others, {told}"
            found.append(Finding("shortcut", (), _information(_by_tenths(sizes, gold == label)), reason))
    return ranked(found)


def holm(p: NDArray[np.float64]) -> NDArray[np.float64]:
    """P-values corrected for being so many (Holm 1979): one below alpha is wrong in at most alpha of all families."""
    import numpy as np

    order = np.argsort(p, kind="stable")
    steps = np.maximum.accumulate(p[order] * (len(p) - np.arange(len(p))))
    found = np.empty_like(p)
    found[order] = np.minimum(steps, 1)
    return found


def _fisher(counts: NDArray[np.int64], of_label: NDArray[np.int64]) -> NDArray[np.float64]:
    """How likely so many of a token's rows, or more, carry the label by chance, (tokens, labels)."""
    from scipy.stats import hypergeom

    found: NDArray[np.float64] = hypergeom.sf(counts - 1, of_label.sum(), of_label[None, :], counts.sum(1)[:, None])
    return found


def _information(table: NDArray[np.int64]) -> float:
    """Bits that the lines of a table of counts give on its columns (mutual information)."""
    import numpy as np

    shares = table / table.sum()
    alone = shares.sum(1, keepdims=True) * shares.sum(0, keepdims=True)
    held = shares > 0
    return float((shares[held] * np.log2(shares[held] / alone[held])).sum())


def _longer(sizes: NDArray[np.int64], own: NDArray[np.bool_]) -> tuple[float, float]:
    """How often one of the own is longer than one of the rest, ties half; and the p-value, two-sided (Mann-Whitney)."""
    import numpy as np
    from scipy.stats import mannwhitneyu

    if own.all() or not own.any():
        return 0.5, 1.0
    test: Any = mannwhitneyu(sizes[own], sizes[~own], method="asymptotic")
    return float(test.statistic / (own.sum() * (~own).sum())), float(np.nan_to_num(test.pvalue, nan=1.0))


def _by_tenths(sizes: NDArray[np.int64], own: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many of the own and of the rest are in each tenth of all lengths, (tenths, 2)."""
    import numpy as np

    tenth = np.searchsorted(np.unique(np.quantile(sizes, np.linspace(0.1, 0.9, 9))), sizes)
    return np.stack([np.bincount(tenth[side], minlength=10) for side in (own, ~own)], axis=1)
