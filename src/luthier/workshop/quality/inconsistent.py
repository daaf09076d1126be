"""Like texts with unlike labels: at most one of the labels is right, or the classes are not told apart.

Enters: texts, labels and each row's neighbours. Leaves: which rows are copies of each other (up to case, width and white space, or nearly),
and a finding for each set of copies whose labels differ, with the label that most of them carry, if most do.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.data.split import content_key
from luthier.workshop.quality.finding import Finding, ranked, shown

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.workshop.quality.neighbours import Neighbours

NEAR, SHARED = 0.95, 0.8
"""Near copies have at least this cosine, and share at least so much of their words (Jaccard)."""
NAMED = 5
_WORD = re.compile(r"\w+")


def copies(texts: Sequence[str], near: Neighbours) -> NDArray[np.int64]:
    """A number for each row, (rows,), which copies and near copies have in common."""
    import numpy as np
    from scipy.sparse import coo_matrix
    from scipy.sparse.csgraph import connected_components

    exact = np.unique([content_key(t) for t in texts], return_inverse=True)[1]
    rows, places = np.nonzero(near.cosines >= NEAR)
    words = {r: frozenset(_WORD.findall(texts[r].casefold())) for r in {*rows.tolist(), *near.rows[rows, places].tolist()}}
    pairs = [(a, b) for a, b in zip(rows.tolist(), near.rows[rows, places].tolist(), strict=True) if _alike(words[a], words[b])]
    count = int(exact.max(initial=-1)) + 1
    ends = exact[np.array(pairs, np.int64).reshape(-1, 2)]
    joined = coo_matrix((np.ones(len(ends), np.int8), (ends[:, 0], ends[:, 1])), shape=(count, count))
    group: NDArray[np.int64] = connected_components(joined, directed=False)[1].astype(np.int64)[exact]
    return group


def _alike(a: frozenset[str], b: frozenset[str]) -> bool:
    return bool(a or b) and len(a & b) >= SHARED * len(a | b)


def inconsistent(texts: Sequence[str], gold: NDArray[np.int64], groups: NDArray[np.int64], names: Sequence[str]) -> list[Finding]:
    """Sets of copies whose labels differ; the score is the share of the rows outside of the largest label, plus the rows in hundredths."""
    members: dict[int, list[int]] = {}
    for row, group in enumerate(groups.tolist()):
        members.setdefault(group, []).append(row)
    found = []
    for rows in members.values():
        counts = Counter(int(gold[r]) for r in rows)
        if len(counts) < 2:
            continue
        (first, most), (_, second) = counts.most_common(2)
        told = ", ".join(f"{names[label]} {count}" for label, count in counts.most_common(NAMED))
        same = len({content_key(texts[r]) for r in rows}) == 1
        reason = f"{len(rows)} {'copies' if same else 'near copies'} of {shown(texts[rows[0]])!r} are labelled {told}"
        suggested = (names[first],) * len(rows) if most > second else ()
        found.append(Finding("inconsistent", tuple(rows), 1 - most / len(rows) + len(rows) / 100, reason, suggested))
    return ranked(found)
