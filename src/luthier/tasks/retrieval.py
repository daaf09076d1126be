"""How well texts are found among others: ranks and the figures made of them, in numpy.

Enters: the vectors of a part's texts, or the scores of every query against every text of a corpus, and which texts are
right. Leaves: a line of figures a record, whose means are the scores, so that a bootstrap over records costs nothing.
A text that is right stands behind all wrong ones with the same score.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from luthier.data.prepare import Record
from luthier.data.split import content_key
from luthier.tasks.paired import numbered, paired

Array = NDArray[np.float64]
CUTS = (1, 5, 10)
NAMES = (*(f"recall@{k}" for k in CUTS), "mrr", "ndcg@10")
RANK = 2 + NAMES.index("mrr")
"""Where a record's line has the inverse rank: after 1 where it counts, and the loss."""
BLOCK = 32
"""Records that are compared with each other for the loss of an evaluation, so that it does not grow with the part."""
CHUNK = 1 << 22
"""Scores held at once."""


def figures(
    score: Callable[[slice], Array], relevant: Sequence[NDArray[np.int64]], *, texts: int, left_out: Sequence[int] | NDArray[np.int64] = ()
) -> Array:
    """For each query 1 (0 where no text is right), then a figure for each of `NAMES`, (queries, 6).

    `score(rows)` gives the scores of some queries, (rows, texts); `relevant` the right texts of each query; `left_out` a
    text for each query that is none of its candidates (itself). recall@k is the share found among the k first of what
    could be there, found / min(k, right) (Thakur et al. 2021: capped recall); mrr the inverse rank of the first right text;
    ndcg@10 has gains of 0 and 1 (Järvelin and Kekäläinen 2002).
    """
    found = np.zeros((len(relevant), 1 + len(NAMES)))
    step = max(1, CHUNK // max(1, texts))
    for first in range(0, len(relevant), step):
        rows = slice(first, min(first + step, len(relevant)))
        scores = np.array(score(rows), dtype=np.float64)
        right = np.zeros(scores.shape, dtype=bool)
        for line, places in zip(right, relevant[rows], strict=True):
            line[places] = True
        if len(left_out):
            own = (np.arange(len(scores)), np.asarray(left_out[rows]))
            scores[own], right[own] = -np.inf, False
        found[rows] = _figures(scores, right)
    return found


def _figures(scores: Array, right: NDArray[np.bool_]) -> Array:
    count = right.sum(1)
    scores = np.where(right, np.nextafter(scores, -np.inf), scores)
    best = np.where(right, scores, -np.inf).max(1)
    rank = 1 + (scores > best[:, None]).sum(1)
    deep = min(max(CUTS), scores.shape[1])
    top = np.argpartition(-scores, deep - 1, axis=1)[:, :deep]
    top = np.take_along_axis(top, np.argsort(-np.take_along_axis(scores, top, 1), axis=1, kind="stable"), 1)
    hits = np.take_along_axis(right, top, 1).astype(float)
    gains = 1 / np.log2(np.arange(2, deep + 2))
    ideal = np.concatenate([[1.0], np.cumsum(gains)])[np.clip(count, 1, deep)]
    recalls = [hits[:, :k].sum(1) / np.clip(count, 1, k) for k in CUTS]
    lines = np.stack([np.ones(len(rank)), *recalls, 1 / rank, hits @ gains / ideal], 1)
    return np.where(count[:, None] > 0, lines, 0.0)


def lexical(queries: Sequence[str], corpus: Sequence[str]) -> Callable[[slice], Array]:
    """Scores by shared words alone: BM25 (Robertson and Zaragoza 2009, eq. 3.15; k1 1.5, b 0.75, as Lucene counts).

    Raises DependencyError without the package bm25s.
    """
    from luthier.registry import require

    bm25s = require("bm25s", extra="retrieval", purpose="the BM25 baseline")
    model = bm25s.BM25()
    model.index(bm25s.tokenize(list(corpus), show_progress=False), show_progress=False)
    asked = bm25s.tokenize(list(queries), return_ids=False, show_progress=False)

    def score(rows: slice) -> Array:
        return np.stack([model.get_scores(words) if words else np.zeros(len(corpus)) for words in asked[rows]]).astype(np.float64)

    return score


def means(lines: Array, names: Sequence[str]) -> dict[str, float]:
    """The scores of some queries' lines, whose first figure says which count."""
    return dict(zip(names, (lines[:, 1:].sum(0) / max(lines[:, 0].sum(), 1.0)).tolist(), strict=True))


def ranked(
    kind: str,
    records: Sequence[Record],
    texts: Sequence[Sequence[str]],
    vectors: Array,
    owner: NDArray[np.int64],
    *,
    temperature: float,
    symmetric: bool,
) -> Array:
    """The line of each record: 1 where it counts, the training loss, and `NAMES`.

    `texts` are those of each record by part, `vectors` theirs in that order, and `owner` the record of each.
    """  # fmt: skip
    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    first = np.searchsorted(owner, np.arange(len(records)))
    held = first if kind == "classes" else first + 1
    lines = _found(kind, records, lambda rows, places: vectors[first[rows]] @ vectors[held[places]].T)
    names = [str(r.target) for r in records] if kind == "classes" else [content_key(t) for several in texts for t in several]
    marks = np.array(numbered(names))
    if kind == "classes":
        members = [np.array(m) for m in sorted(paired(marks.tolist(), 1))]
    else:
        members = np.split(np.arange(len(vectors)), first[1:])
    nats = _nats(vectors, marks, members, temperature=temperature, symmetric=symmetric)
    return np.concatenate([lines[:, :1], nats[:, None], lines[:, 1:]], 1)


def _found(kind: str, records: Sequence[Record], score: Callable[[slice, NDArray[np.int64]], Array]) -> Array:
    """The figures of finding each record's positives; `score(rows, places)` compares records with those of some others."""
    if kind == "classes":
        everything = np.arange(len(records))
        classes = np.array(numbered([str(r.target) for r in records]))
        right = [np.flatnonzero(classes == c) for c in classes]
        return figures(lambda rows: score(rows, everything), right, texts=len(records), left_out=everything)
    places, right = _corpus(records)
    return figures(lambda rows: score(rows, places), right, texts=len(places))


def _corpus(records: Sequence[Record]) -> tuple[NDArray[np.int64], list[NDArray[np.int64]]]:
    """The records whose positives are the different texts to be found, and for each record which of these are right."""
    positives, asked = numbered([content_key(r.pair) for r in records]), numbered([content_key(r.text) for r in records])
    right: dict[int, set[int]] = {}
    for question, positive in zip(asked, positives, strict=True):
        right.setdefault(question, set()).add(positive)
    return np.unique(positives, return_index=True)[1], [np.array(sorted(right[q])) for q in asked]


def _nats(vectors: Array, marks: NDArray[np.int64], members: Sequence[NDArray[np.int64]], *, temperature: float, symmetric: bool) -> Array:
    """The training loss of each record among `BLOCK` drawn once, (n,); 0 where it has no text but its own to find.

    `members` are the texts of each record: its own, its positive, its negatives.
    """
    import torch

    from luthier.models.contrast import in_batch

    nats = np.zeros(len(members))
    for block in _blocks(len(members)):
        anchors = [members[i][0] for i in block]
        candidates = [*(members[i][1] for i in block), *(j for i in block for j in members[i][2:])]
        nats[block] = in_batch(
            torch.from_numpy(vectors[anchors]),
            torch.from_numpy(vectors[candidates]),
            marks=torch.from_numpy(marks[anchors]),
            candidate_marks=torch.from_numpy(marks[candidates]),
            temperature=temperature,
            symmetric=symmetric,
        ).numpy()
    return nats * np.array([m[0] != m[1] for m in members])


def _blocks(count: int) -> list[NDArray[np.int64]]:
    return np.array_split(np.random.default_rng(0).permutation(count), -(-count // BLOCK))


def near(records: Sequence[Record], vectors: Array, owner: NDArray[np.int64], *, ordered: bool, temperature: float) -> Array:
    """For each scored pair the training loss (where `ordered` that of its block of `BLOCK`) and its cosine, (n, 2)."""
    import torch

    from luthier.models.contrast import cosent

    vectors = vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    first = np.searchsorted(owner, np.arange(len(records)))
    cosines, gold = (vectors[first] * vectors[first + 1]).sum(1), np.array([r.target for r in records])
    if not ordered:
        return np.stack([(cosines - gold) ** 2, cosines], 1)
    loss = np.zeros(len(gold))
    for block in _blocks(len(gold)):
        loss[block] = float(cosent(torch.from_numpy(cosines[block]), torch.from_numpy(gold[block]), temperature=temperature))
    return np.stack([loss, cosines], 1)


def by_words(kind: str, records: Sequence[Record]) -> Array:
    """The lines of BM25, whose loss is no number."""
    places = np.arange(len(records)) if kind == "classes" else _corpus(records)[0]
    texts = [records[i].text if kind == "classes" else str(records[i].pair) for i in places]
    score = lexical([r.text for r in records], texts)
    lines = _found(kind, records, lambda rows, _: score(rows))
    return np.concatenate([lines[:, :1], np.full((len(lines), 1), np.nan), lines[:, 1:]], 1)
