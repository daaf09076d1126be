"""Which rows hold which tokens and phrases.

Enters: texts. Leaves: a sparse table of rows and the runs of one to three tokens that stand in enough of them. Tokens are words,
numbers and single signs, without regard to case; what cannot be seen (a zero-width space) is a sign too.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TOKEN = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Presence:
    """`table` (rows, phrases) is 1 where a row holds the phrase; `names` are the phrases; a CSC matrix of scipy."""

    table: Any
    names: list[str]

    def rows(self, phrase: int) -> NDArray[np.int64]:
        """The rows that hold a phrase."""
        import numpy as np

        ends = self.table.indptr
        return np.sort(self.table.indices[ends[phrase] : ends[phrase + 1]]).astype(np.int64)

    def single(self) -> NDArray[np.int64]:
        """The phrases of one token."""
        import numpy as np

        return np.array([i for i, name in enumerate(self.names) if " " not in name], np.int64)

    def by_label(self, gold: NDArray[np.int64], labels: int) -> NDArray[np.int64]:
        """How many rows with each label hold each phrase, (phrases, labels)."""
        import numpy as np
        from scipy.sparse import csr_matrix

        marks = csr_matrix((np.ones(len(gold), np.int64), (np.arange(len(gold)), gold)), shape=(len(gold), labels))
        return np.asarray((self.table.T @ marks).todense())


def presence(texts: Sequence[str], *, longest: int, fewest: int) -> Presence:
    """The phrases of up to `longest` tokens that stand in `fewest` rows or more."""
    import numpy as np
    from scipy.sparse import csc_matrix
    from sklearn.feature_extraction.text import CountVectorizer

    counter = CountVectorizer(
        tokenizer=TOKEN.findall, token_pattern=None, lowercase=False, preprocessor=str.casefold, binary=True, ngram_range=(1, longest),
        min_df=1, dtype=np.int32,
    )  # fmt: skip
    try:
        table = counter.fit_transform(texts)
    except ValueError:  # no text has a token
        return Presence(csc_matrix((len(texts), 0), dtype=np.int32), [])
    enough = np.flatnonzero(np.bincount(table.indices, minlength=table.shape[1]) >= fewest)
    return Presence(table[:, enough].tocsc(), counter.get_feature_names_out()[enough].tolist())
