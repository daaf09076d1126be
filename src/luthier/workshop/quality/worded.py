"""What rows are judged by: what their texts mean, and in which words they say it.

Enters: texts and their vectors. Leaves: the vectors with as many numbers more as the words and pairs of words need: weighted by how rare
they are, and folded into a few dimensions (latent semantic analysis, Deerwester et al. 1990). An encoder brings questions near each
other that differ in one word; where the label hangs on that word, a model that sees it makes fewer mistakes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from luthier.workshop.quality.ngrams import presence

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LONGEST, FEWEST = 2, 2
"""Tokens of a phrase, and rows that it must stand in."""
DIMENSIONS = 256
SHARE = 0.5
"""How long the part of the words is, where that of the meaning is 1."""


def with_words(texts: Sequence[str], vectors: NDArray[np.float32]) -> NDArray[np.float32]:
    """(rows, width) to (rows, width + at most 256); the vectors alone where texts share no words."""
    import numpy as np
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    table = presence(texts, longest=LONGEST, fewest=FEWEST).table
    size = min(DIMENSIONS, min(table.shape) - 1)
    if size < 1:
        return vectors
    words = TruncatedSVD(size, random_state=0).fit_transform(TfidfTransformer().fit_transform(table))
    lengths = np.maximum(np.linalg.norm(words, axis=1, keepdims=True), 1e-9)
    return np.hstack([vectors, (SHARE * words / lengths).astype(np.float32)])
