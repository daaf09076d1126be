"""The texts that are there already, and whether a new one is like one of them.

Exact: of any text whose share of common words reaches the threshold, one of the new text's rarest words must be among those that it
is looked up by (prefix filtering; Chaudhuri, Ganti and Kaushik, ICDE 2006), so that no like text is missed and few are compared.
"""

from __future__ import annotations

import math
from collections import defaultdict

from luthier.data.near import words_of
from luthier.data.split import content_key


class Known:
    """Texts, to be asked before each new one is put in."""

    def __init__(self, *, near: float) -> None:
        self._near = near
        self._keys: set[str] = set()
        self._sets: list[frozenset[str]] = []
        self._of_word: dict[str, list[int]] = defaultdict(list)

    def add(self, text: str) -> None:
        """A text that is there."""
        self._keys.add(content_key(text))
        words = frozenset(words_of(text))
        for word in words:
            self._of_word[word].append(len(self._sets))
        self._sets.append(words)

    def like(self, text: str) -> str | None:
        """`exact` or `near` where a text like it is there; None where it is new."""
        if content_key(text) in self._keys:
            return "exact"
        words = frozenset(words_of(text))
        if not words:
            return None
        rarest = sorted(words, key=lambda w: (len(self._of_word.get(w, ())), w))
        probed = rarest[: len(words) - math.ceil(self._near * len(words) - 1e-9) + 1]
        candidates = {i for word in probed for i in self._of_word.get(word, ())}
        for i in candidates:
            other = self._sets[i]
            both = len(words & other)
            if both >= self._near * (len(words) + len(other) - both) - 1e-9:
                return "near"
        return None
