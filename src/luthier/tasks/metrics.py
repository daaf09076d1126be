"""Scores of classification and regression from outputs, in numpy, fast enough to bootstrap.

Enters: gold targets and model outputs (logits) as arrays. Leaves: named figures. Definitions follow
scikit-learn (zero where a denominator is zero), and a test holds them equal to it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def softmax(logits: Array) -> Array:
    """Row-wise probabilities."""
    shifted = np.exp(logits - logits.max(axis=1, keepdims=True))
    return shifted / shifted.sum(axis=1, keepdims=True)


def sigmoid(logits: Array) -> Array:
    """Element-wise probabilities."""
    return 1 / (1 + np.exp(-np.clip(logits, -60, 60)))


def confusion(gold: NDArray[np.int64], predicted: NDArray[np.int64], classes: int) -> NDArray[np.int64]:
    """(classes, classes) counts: rows are gold, columns predicted."""
    return np.bincount(gold * classes + predicted, minlength=classes * classes).reshape(classes, classes)


def precision_recall_f1(hits: Array, predicted: Array, gold: Array) -> tuple[Array, Array, Array]:
    """Element-wise, from counts of true positives, of predictions and of gold labels."""
    with np.errstate(divide="ignore", invalid="ignore"):
        precision = np.where(predicted > 0, hits / predicted, 0.0)
        recall = np.where(gold > 0, hits / gold, 0.0)
        f1 = np.where(predicted + gold > 0, 2 * hits / (predicted + gold), 0.0)
    return precision, recall, f1


def _averages(hits: Array, predicted: Array, gold: Array) -> dict[str, float]:
    """Macro, micro and weighted precision, recall and F1; classes that occur nowhere are left out of macro."""
    per_class = precision_recall_f1(hits, predicted, gold)
    present = predicted + gold > 0
    support = gold / max(gold.sum(), 1)
    micro = precision_recall_f1(hits.sum(keepdims=True), predicted.sum(keepdims=True), gold.sum(keepdims=True))
    found: dict[str, float] = {}
    for name, values, whole in zip(("precision", "recall", "f1"), per_class, micro, strict=True):
        found[f"{name}_macro"] = float(values[present].mean()) if present.any() else 0.0
        found[f"{name}_micro"] = float(whole[0])
        found[f"{name}_weighted"] = float((values * support).sum())
    return found


def calibration_error(confidence: Array, correct: Array, bins: int = 15) -> float:
    """Expected calibration error over equal-width bins (Guo et al. 2017, eq. 3)."""
    place = np.minimum((confidence * bins).astype(int), bins - 1)
    count = np.bincount(place, minlength=bins)
    gap = np.abs(np.bincount(place, confidence, bins) - np.bincount(place, correct, bins))
    return float(gap[count > 0].sum() / max(count.sum(), 1))


def single_label(gold: NDArray[np.int64], logits: Array) -> dict[str, float]:
    """One label a row: `gold` (n,) class numbers, `logits` (n, classes)."""
    classes = logits.shape[1]
    predicted = logits.argmax(axis=1)
    table = confusion(gold, predicted, classes).astype(float)
    probabilities = softmax(logits)
    rows = np.arange(len(gold))
    return {
        "accuracy": float(np.trace(table) / len(gold)),
        **_averages(np.diag(table), table.sum(0), table.sum(1)),
        "ece": calibration_error(probabilities.max(axis=1), (predicted == gold).astype(float)),
        "loss": float(-np.log(np.clip(probabilities[rows, gold], 1e-12, None)).mean()),
    }


def multi_label(gold: Array, logits: Array, threshold: float) -> dict[str, float]:
    """Any labels a row: `gold` (n, labels) of 0 and 1, `logits` (n, labels)."""
    probabilities = sigmoid(logits)
    predicted = (probabilities >= threshold).astype(float)
    hits = (predicted * gold).sum(0)
    clipped = np.clip(probabilities, 1e-12, 1 - 1e-12)
    return {
        "accuracy": float((predicted == gold).all(axis=1).mean()),
        **_averages(hits, predicted.sum(0), gold.sum(0)),
        "ece": calibration_error(np.maximum(probabilities, 1 - probabilities).ravel(), (predicted == gold).astype(float).ravel()),
        "loss": float(-(gold * np.log(clipped) + (1 - gold) * np.log(1 - clipped)).mean()),
    }


def regression(gold: Array, outputs: Array) -> dict[str, float]:
    """One number a row: `gold` (n,), `outputs` (n, 1)."""
    from scipy.stats import rankdata

    predicted = outputs[:, 0]
    error = predicted - gold
    variance = float(((gold - gold.mean()) ** 2).mean())
    return {
        "pearson": _correlation(gold, predicted),
        "spearman": _correlation(rankdata(gold), rankdata(predicted)),
        "rmse": float(np.sqrt((error**2).mean())),
        "mae": float(np.abs(error).mean()),
        "r2": float(1 - (error**2).mean() / variance) if variance > 0 else 0.0,
        "loss": float((error**2).mean()),
    }


def _correlation(a: Array, b: Array) -> float:
    a, b = a - a.mean(), b - b.mean()
    scale = float(np.sqrt((a * a).sum() * (b * b).sum()))
    return float((a * b).sum() / scale) if scale > 1e-12 else 0.0


class _Names(frozenset[str]):
    """Scores by their own names: of several tasks, NAME.loss is a loss."""

    def __contains__(self, name: object) -> bool:
        return super().__contains__(str(name).rpartition(".")[2])


LOWER_IS_BETTER = _Names({"loss", "ece", "rmse", "mae", "perplexity", "pseudo_perplexity", "bits_per_byte", "loss_chosen", "kl"})
