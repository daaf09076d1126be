"""Leaks: what is trained on and tested too, or stands in an evaluation set.

Enters: texts. Leaves: for each text that leaks, why. Two texts leak where they are the same, nearly the same
(`data/near.py`), or share a run of words that is too long for chance: 13 words, as in Brown et al., Language Models are
Few-Shot Learners (2020), appendix C; where the text that is tested is shorter, all of it, if it has 6 words. With an encoder at hand
those leak too whose vectors are close (`data/close.py`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from luthier.data.close import Closeness
from luthier.data.near import Pairs, Texts, words_of
from luthier.data.split import content_key

RUN = 13
SHORTEST = 6


@dataclass
class Held:
    """Texts that must not be trained on, and where each stands."""

    run: int = RUN
    threshold: float = 0.8
    close: Closeness | None = None
    """How texts are compared by what they mean; without it they are not."""
    _texts: list[str] = field(default_factory=list)
    _names: list[str] = field(default_factory=list)
    _keys: dict[str, str] = field(default_factory=dict)
    _runs: dict[int, dict[int, str]] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self._texts)

    def add(self, text: str, name: str) -> None:
        """Take in a text."""
        self._texts.append(text)
        self._names.append(name)
        self._keys.setdefault(content_key(text), name)
        words = words_of(text)
        length = min(self.run, len(words))
        if length >= min(SHORTEST, self.run):
            for key in _runs(words, length):
                self._runs.setdefault(length, {}).setdefault(key, name)

    def leaks(self, texts: Sequence[str]) -> dict[int, str]:
        """Place -> why, of the texts that leak."""
        found: dict[int, str] = {}
        for place, text in enumerate(texts):
            same = self._keys.get(content_key(text)) if text.strip() else None
            if same is not None:
                found[place] = f"the same as: {same}"
                continue
            words = words_of(text)
            for length, known in self._runs.items():
                shared = next((known[k] for k in _runs(words, length) if k in known), None)
                if shared is not None:
                    found[place] = (
                        f"shares {length} words in a row with: {shared}" if length == self.run else f"holds the whole of: {shared}"
                    )
                    break
        near = Texts()
        near.add(self._texts)
        near.add(texts)
        pairs, count = near.pairs(threshold=self.threshold), len(self._texts)
        for a, b, similarity in zip(pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True):
            if a < count <= b and b - count not in found:
                found[b - count] = f"nearly the same as: {self._names[a]} ({similarity:.2f})"
        if self.close is not None:
            for place, (a, cosine) in self.close.crossing(texts, self._texts).items():
                found.setdefault(place, f"means nearly the same as: {self._names[a]} ({cosine:.2f})")
        return dict(sorted(found.items()))


def _runs(words: list[str], length: int) -> Iterable[int]:
    """A hash of each run of so many words."""
    return (hash(tuple(words[i : i + length])) for i in range(len(words) - length + 1))


def crossing(pairs: Pairs, sides: Sequence[str]) -> list[tuple[int, int, float]]:
    """Of pairs of near duplicates, those whose texts stand on two sides."""
    rows = zip(pairs.first.tolist(), pairs.second.tolist(), pairs.similarity.tolist(), strict=True)
    return [(a, b, s) for a, b, s in rows if sides[a] != sides[b]]
