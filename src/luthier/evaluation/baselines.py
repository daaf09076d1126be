"""What simple methods reach on the same rows: the floor under every model.

Enters: texts and targets of train and test. Leaves: outputs in the shape the task scores, for the
majority class (or mean), TF-IDF with a linear model, and frozen embeddings with a linear model.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
CERTAIN = 30.0
_WORD = re.compile(r"\w+")
_SENTENCE = re.compile(r"\S.*?(?:[.!?](?=\s)|$)", re.S)
METHODS = {
    "majority": "commonest answer",
    "tfidf": "TF-IDF, linear model",
    "frozen": "frozen embeddings, linear",
    "copy": "copying the source",
    "overlap": "sentence most like the question",
    "lexicon": "commonest tag of each word",
    "bm25": "BM25: shared words",
    "length": "the longer answer",
    "base": "before training",
    "model": "fine-tuned",
}
"""What a model is measured against, in the order of tables, and the model itself."""


def majority(train_gold: NDArray[Any], rows: int, *, kind: str, outputs: int) -> Array:
    """The commonest label, the labels more than half the rows have, or the mean, for every row."""
    if kind == "regression":
        return np.full((rows, 1), float(train_gold.mean()))
    if kind == "multi_label":
        return np.repeat(np.where(train_gold.mean(0) >= 0.5, CERTAIN, -CERTAIN)[None], rows, 0)
    shares = np.bincount(train_gold, minlength=outputs) / len(train_gold)
    return np.repeat(np.log(np.clip(shares, 1e-12, None))[None], rows, 0)


def tfidf(train_texts: list[str], train_gold: NDArray[Any], texts: list[str], *, kind: str, outputs: int) -> Array:
    """Logistic (or ridge) regression on TF-IDF of words and word pairs."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=1, max_features=200_000)
    try:
        features = vectorizer.fit_transform(train_texts)
    except ValueError:  # no words at all: nothing to learn from
        return majority(train_gold, len(texts), kind=kind, outputs=outputs)
    return _linear(features, train_gold, vectorizer.transform(texts), kind=kind, outputs=outputs, strength=10.0)


def frozen(train_vectors: Array, train_gold: NDArray[Any], vectors: Array, *, kind: str, outputs: int) -> Array:
    """Logistic (or ridge) regression on the base model's embeddings, its weights untouched."""
    return _linear(train_vectors, train_gold, vectors, kind=kind, outputs=outputs, strength=10.0)


def overlap(questions: Sequence[str], passages: Sequence[str]) -> list[tuple[int, int]]:
    """The characters of each passage's sentence that has most words in common with the question; the shortest of several."""
    found = []
    for question, passage in zip(questions, passages, strict=True):
        asked = set(_WORD.findall(question.casefold()))
        spans = [m.span() for m in _SENTENCE.finditer(passage)] or [(0, len(passage))]
        found.append(max(spans, key=lambda s: (len(asked & set(_WORD.findall(passage[s[0] : s[1]].casefold()))), s[0] - s[1])))
    return found


def _linear(x: Any, gold: NDArray[Any], held: Any, *, kind: str, outputs: int, strength: float) -> Array:
    from sklearn.linear_model import Ridge

    if kind == "regression":
        return Ridge(alpha=1.0).fit(x, gold).predict(held).reshape(-1, 1)
    if kind == "multi_label":
        columns = [_one_label(x, gold[:, i].astype(int), held, strength) for i in range(outputs)]
        return np.stack(columns, axis=1)
    model = _logistic(strength).fit(x, gold)
    found = np.full((held.shape[0], outputs), -CERTAIN)
    log = model.predict_log_proba(held)
    found[:, model.classes_] = np.maximum(log, -CERTAIN)
    return found


def _one_label(x: Any, gold: NDArray[Any], held: Any, strength: float) -> Array:
    if gold.min() == gold.max():
        return np.full(held.shape[0], CERTAIN if gold[0] else -CERTAIN)
    return _logistic(strength).fit(x, gold).decision_function(held)


def _logistic(strength: float) -> Any:
    from sklearn.linear_model import LogisticRegression

    class Quiet(LogisticRegression):  # type: ignore[misc]
        """Without the note that it stopped at the last iteration."""

        def fit(self, x: Any, y: Any, sample_weight: Any = None) -> Any:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                return super().fit(x, y, sample_weight)

    return Quiet(C=strength, max_iter=200)
