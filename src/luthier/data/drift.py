"""How new rows differ from old ones: in their labels, their lengths, their words, and as a whole.

Enters: the texts of both sides and, where there are labels, those of each row. Leaves: figures with their uncertainty or with
what chance alone would give, and the same in words. No model: a classifier on TF-IDF is trained to tell the sides apart, on
parts that it is not asked about (Lopez-Paz and Oquab 2017); its AUC says how well a row shows which side it is from.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST = 2000
"""Rows of each side that are looked at, drawn with the seed; label counts are of all."""
FEWEST = 20
"""Different texts that a side must have for them to be told apart."""
FOLDS, RESAMPLES, NAMED = 5, 1000, 8
CLEAR, SURE = 0.7, 0.9
"""AUCs from which sides are told apart well, and nearly always."""
WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Side:
    """Texts of one side, and the labels of each; none where the rows have no labels."""

    texts: Sequence[str]
    labels: Sequence[Sequence[str]] = field(default=())


def drift(old: Side, new: Side, *, seed: int = 0) -> dict[str, Any]:
    """Figures of how the sides differ; what cannot be told is absent.

    `labels`: names that one side alone has; the Jensen-Shannon divergence of the labels in bits, from 0 to 1, and the 95th
    percentile of those that chance gives where rows change sides. `length`: medians in words, the Kolmogorov-Smirnov statistic
    with its p-value. `words`: the share of the words of new texts that no old text has, the same for old texts that are held
    out, and the commonest of them. `apart`: AUC with its 95% interval (bootstrap over rows); `apart_by_label`: the same on rows
    of labels that both sides have, equally many of each. Raises ValueError where a side has no text.
    """
    import numpy as np

    if not old.texts or not new.texts:
        raise ValueError("each side needs a text")
    rng = np.random.default_rng(seed)
    found: dict[str, Any] = {"rows": {"old": len(old.texts), "new": len(new.texts)}}
    if any(old.labels) and any(new.labels):
        found["labels"] = _labels(old.labels, new.labels, rng)
    a, b = _some(len(old.texts), rng), _some(len(new.texts), rng)
    before, after = [old.texts[i] for i in a], [new.texts[i] for i in b]
    found["length"] = _lengths(before, after)
    found["words"] = _words(before, after, rng)
    if _enough(before, after):
        found["apart"] = _apart(before, after, rng)
    if found.get("labels", {}).get("new") or found.get("labels", {}).get("missing"):
        before, after = _same_labels(old, new, rng)
        if _enough(before, after):
            found["apart_by_label"] = _apart(before, after, rng)
    return found


def sentences(found: dict[str, Any]) -> list[str]:
    """The figures of `drift` in words."""
    said = []
    if "apart" in found:
        said.append(_of_apart(found["apart"], "new texts", "old ones"))
    if "apart_by_label" in found:
        said.append(_of_apart(found["apart_by_label"], "among labels that both have, new texts", "old ones"))
    labels = found.get("labels")
    if labels is not None:
        more = labels["divergence"] > labels["by_chance"]
        verdict = "the labels are spread otherwise" if more else "the labels are spread as before"
        said.append(f"{verdict}: divergence {labels['divergence']:.3f} bits, by chance at most {labels['by_chance']:.3f}")
    words = found["words"]
    if words["unseen"] > 2 * words["unseen_in_old"] + 0.02:
        shown = ", ".join(words["commonest"])
        said.append(f"{words['unseen']:.0%} of the words in new texts are in no old one (usual: {words['unseen_in_old']:.0%}): {shown}")
    length = found["length"]
    if length["p"] < 0.01:
        what = "longer" if length["new"] > length["old"] else "shorter" if length["new"] < length["old"] else "of other lengths"
        said.append(f"new texts are {what}: {length['new']:g} words at the median, old ones {length['old']:g}")
    return said


def _of_apart(found: dict[str, Any], new: str, old: str) -> str:
    auc, low, high = (found[k] for k in ("auc", "low", "high"))
    how = (
        f"are easy to tell from {old}" if low >= SURE
        else f"differ clearly from {old}" if low >= CLEAR
        else f"differ a little from {old}" if low > 0.5
        else f"look like {old}"
    )  # fmt: skip
    return f"{new} {how}: AUC {auc:.2f} ({low:.2f} to {high:.2f}; 0.5 is none, 1 is always)"


def _some(count: int, rng: np.random.Generator) -> list[int]:
    """Numbers of the rows that are looked at."""
    return sorted(rng.choice(count, MOST, replace=False).tolist()) if count > MOST else list(range(count))


def _labels(old: Sequence[Sequence[str]], new: Sequence[Sequence[str]], rng: np.random.Generator) -> dict[str, Any]:
    import numpy as np

    counts = [Counter(label for labels in side for label in labels) for side in (old, new)]
    names = sorted(counts[0].keys() | counts[1].keys())
    table = np.array([[c[n] for n in names] for c in counts])
    shares = table / table.sum(1, keepdims=True).clip(1)
    found: dict[str, Any] = {
        "new": [n for n in names if not counts[0][n]],
        "missing": [n for n in names if not counts[1][n]],
        "shares": {n: {"old": float(a), "new": float(b)} for n, (a, b) in zip(names, shares.T, strict=True)},
    }
    if not table.sum(1).all():
        return {**found, "divergence": 0.0, "by_chance": 1.0}
    drawn = rng.multivariate_hypergeometric(table.sum(0), int(table[1].sum()), size=RESAMPLES, method="marginals")
    chance = _divergence(table.sum(0) - drawn, drawn)
    return {**found, "divergence": float(_divergence(table[:1], table[1:])[0]), "by_chance": float(np.quantile(chance, 0.95))}


def _divergence(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Jensen-Shannon divergence in bits of rows of counts, (n, names) each -> (n,) (Lin 1991)."""
    import numpy as np

    p, q = (x / x.sum(1, keepdims=True) for x in (a, b))
    middle = (p + q) / 2

    def bits(x: NDArray[Any]) -> NDArray[Any]:
        return np.where(x > 0, x * np.log2(np.where(x > 0, x, 1) / np.where(middle > 0, middle, 1)), 0).sum(1)

    return (bits(p) + bits(q)) / 2


def _lengths(old: Sequence[str], new: Sequence[str]) -> dict[str, float]:
    import numpy as np
    from scipy.stats import ks_2samp

    sizes = [[len(WORD.findall(t)) for t in side] for side in (old, new)]
    test = ks_2samp(*sizes)
    return {"old": float(np.median(sizes[0])), "new": float(np.median(sizes[1])), "ks": float(test.statistic), "p": float(test.pvalue)}


def _words(old: Sequence[str], new: Sequence[str], rng: np.random.Generator) -> dict[str, Any]:
    """What is unseen in new texts, and in a fifth of the old ones beside the rest of them."""
    sides = [[Counter(w.casefold() for w in WORD.findall(t)) for t in side] for side in (old, new)]
    held = set(rng.permutation(len(old))[: max(1, len(old) // 5)].tolist())
    rest = {w for i, words in enumerate(sides[0]) if i not in held for w in words}
    known = {w for words in sides[0] for w in words}
    unseen = sum((Counter({w: n for w, n in words.items() if w not in known}) for words in sides[1]), Counter())

    def share(texts: Sequence[Counter[str]], seen: set[str]) -> float:
        total = sum(c.total() for c in texts)
        return sum(n for c in texts for w, n in c.items() if w not in seen) / max(total, 1)

    return {
        "unseen": share(sides[1], known),
        "unseen_in_old": share([sides[0][i] for i in held], rest),
        "commonest": [w for w, _ in unseen.most_common(NAMED)],
    }


def _folded(text: str) -> str:
    return " ".join(text.casefold().split())


def _enough(*sides: Sequence[str]) -> bool:
    """Whether each side has texts enough, and different ones, for a classifier."""
    return min(len({_folded(t) for t in side}) for side in sides) >= FEWEST


def _same_labels(old: Side, new: Side, rng: np.random.Generator) -> tuple[list[str], list[str]]:
    """Texts of both sides that have one label, equally many of each label."""
    rows: list[dict[str, list[str]]] = []
    for side in (old, new):
        own: dict[str, list[str]] = {}
        for text, labels in zip(side.texts, side.labels, strict=True):
            if len(labels) == 1:
                own.setdefault(labels[0], []).append(text)
        rows.append(own)
    found: tuple[list[str], list[str]] = ([], [])
    both = sorted(rows[0].keys() & rows[1].keys())
    for label in both:
        count = min(len(rows[0][label]), len(rows[1][label]), -(-MOST // len(both)))
        for texts, own in zip(found, rows, strict=True):
            texts += [own[label][i] for i in sorted(rng.choice(len(own[label]), count, replace=False).tolist())]
    return found


def _apart(old: Sequence[str], new: Sequence[str], rng: np.random.Generator) -> dict[str, float]:
    """The AUC of a classifier that never saw the rows it is asked about, with its 95% interval."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedGroupKFold

    texts, side = [*old, *new], np.repeat([0, 1], [len(old), len(new)])
    groups = np.unique([_folded(t) for t in texts], return_inverse=True)[1]  # a text stays on one side of a fold
    scores = np.zeros(len(texts))
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    for seen, asked in folds.split(texts, side, groups):
        vectors = TfidfVectorizer(sublinear_tf=True, tokenizer=WORD.findall, token_pattern=None, ngram_range=(1, 2), max_features=50_000)
        try:
            learned = vectors.fit_transform([texts[i] for i in seen])
        except ValueError:  # no text has a word
            return {"auc": 0.5, "low": 0.5, "high": 0.5}
        model = LogisticRegression(class_weight="balanced", max_iter=500).fit(learned, side[seen])
        scores[asked] = model.decision_function(vectors.transform([texts[i] for i in asked]))
    first, second = scores[side == 0], scores[side == 1]
    drawn = [
        _auc(first[rng.integers(len(first), size=len(first))], second[rng.integers(len(second), size=len(second))])
        for _ in range(RESAMPLES)
    ]
    low, high = np.quantile(drawn, [0.025, 0.975])
    return {"auc": _auc(first, second), "low": float(low), "high": float(high)}


def _auc(first: NDArray[Any], second: NDArray[Any]) -> float:
    """How often one of the second is above one of the first (Mann-Whitney), ties half."""
    import numpy as np
    from scipy.stats import rankdata

    ranks = rankdata(np.concatenate([first, second]))[len(first) :]
    return float((ranks.sum() - len(second) * (len(second) + 1) / 2) / (len(first) * len(second)))
