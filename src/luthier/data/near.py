"""Near duplicates: pairs of texts that have nearly the same words, among many, without comparing all with all.

Enters: texts, a batch at a time. Leaves: pairs and how alike they are. Candidates share a band of a MinHash signature
(Broder, On the resemblance and containment of documents, 1997; banding: Indyk and Motwani, 1998); each is then compared
exactly, so that what is said to be alike is. A text that is the beginning of another counts too, for cutting off changes
more words than a threshold may allow.

With 20 bands of 6, a pair of Jaccard similarity 0.8 is a candidate with probability 0.998, one of 0.76 with 0.986.
Memory: 4 bytes a word and 160 bytes a text.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

BANDS, ROWS = 20, 6
CHUNK_WORDS = 1 << 16
PORTION = 1 << 21
MANY = 20_000_000
"""Candidates, of which repeated ones are then taken out."""
NEIGHBOURS = 64
"""In a bucket of more than this, each text is compared with so many neighbours and with the first, not with all."""
WORD = re.compile(r"\w+")
SIGNS = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
WITHOUT_SPACES = re.compile(f"[{SIGNS}]|[^\\W{SIGNS}]+")
APOSTROPHES = str.maketrans("", "", "'’ʼ`")


def words_of(text: str) -> list[str]:
    """The words of a text, case and punctuation aside; of a script without spaces, its signs."""
    if text.isascii():
        return WORD.findall(text.lower().translate(APOSTROPHES))
    text = unicodedata.normalize("NFKC", text).casefold().translate(APOSTROPHES)
    return WITHOUT_SPACES.findall(text)


@dataclass(frozen=True)
class Pairs:
    """Texts by number, the earlier first, and how alike they are, from 0 to 1; sorted by the later text."""

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    similarity: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.first)

    def groups(self, count: int, *, more: Sequence[tuple[int, int]] = ()) -> NDArray[np.int64]:
        """For each of `count` texts the number of the first that it is linked to, by way of others too; its own where to none.

        `more` are further links.
        """
        above = list(range(count))

        def root(i: int) -> int:
            while above[i] != i:
                above[i] = above[above[i]]
                i = above[i]
            return i

        for a, b in itertools.chain(zip(self.first.tolist(), self.second.tolist(), strict=True), more):
            low, high = sorted((root(a), root(b)))
            above[high] = low
        return np.array([root(i) for i in range(count)], np.int64)


class Texts:
    """Texts as numbers of words, to be searched for pairs. `shingle` words are compared together."""

    def __init__(self, *, shingle: int = 1, min_words: int = 8) -> None:
        self._shingle, self._least = shingle, max(min_words, shingle)
        self._known: dict[str, int] = {}
        self._flat, self._lengths = array("i"), array("i")

    def __len__(self) -> int:
        return len(self._lengths)

    def add(self, texts: Iterable[str]) -> None:
        """Take in some more texts."""
        known, flat, lengths = self._known, self._flat, self._lengths
        for text in texts:
            words = words_of(text)
            flat.extend([known.setdefault(w, len(known)) for w in words])
            lengths.append(len(words))

    def pairs(self, *, threshold: float) -> Pairs:
        """Every pair of texts that are alike to at least `threshold`, or of which one is the beginning of the other, as long."""
        ids = np.frombuffer(self._flat, np.int32) if self._flat else np.zeros(0, np.int32)
        lengths = np.frombuffer(self._lengths, np.int32).astype(np.int64) if self._lengths else np.zeros(0, np.int64)
        found = _Shingled.of(ids, lengths, self._shingle, self._least)
        same = found.repeats()
        candidates = found.candidates(same)
        verified = [found.verified(part, threshold) for part in found.portions(candidates)]
        first, second, similarity = (np.concatenate(x) for x in zip(*verified, same.pairs(), strict=True))
        first, second = found.numbers[first], found.numbers[second]
        order = np.lexsort((first, second))
        return Pairs(first[order], second[order], similarity[order])


@dataclass(frozen=True)
class _Same:
    """Which texts repeat an earlier one word for word."""

    leader: NDArray[np.int64]

    def pairs(self) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        later = np.flatnonzero(self.leader != np.arange(len(self.leader)))
        return self.leader[later], later, np.ones(len(later))


@dataclass(frozen=True)
class _Shingled:
    """Texts that are long enough: `flat` has their shingles end to end, text i from starts[i], `counts[i]` of them."""

    flat: NDArray[np.uint64]
    ranks: NDArray[np.int64]
    """The same shingles, as small numbers."""
    starts: NDArray[np.int64]
    counts: NDArray[np.int64]
    numbers: NDArray[np.int64]
    """The number that each has among all texts."""

    @classmethod
    def of(cls, ids: NDArray[np.int32], lengths: NDArray[np.int64], shingle: int, least: int) -> _Shingled:
        mixed = _mixed(ids.astype(np.uint64))
        flat = mixed.copy()
        with np.errstate(over="ignore"):
            for further in range(1, min(shingle, len(ids))):
                flat[:-further] = _mixed(flat[:-further] * np.uint64(0x9E3779B97F4A7C15) + mixed[further:])
        ends = np.cumsum(lengths)
        numbers = np.flatnonzero(lengths >= least)
        ranks = ids.astype(np.int64) if shingle == 1 else np.unique(flat, return_inverse=True)[1]
        return cls(flat, ranks, (ends - lengths)[numbers], lengths[numbers] - shingle + 1, numbers)

    def repeats(self) -> _Same:
        keys = np.zeros(len(self.counts), np.uint64)
        with np.errstate(over="ignore"):
            for part in self._chunks():
                flat, starts = self._together(part)
                places = np.arange(len(flat)) - np.repeat(starts, self.counts[part])
                weighted = _mixed(flat + _mixed(places.astype(np.uint64)))
                keys[part] = np.add.reduceat(weighted, starts)
        _, first, back = np.unique(keys, return_index=True, return_inverse=True)
        return _Same(first[back])

    def candidates(self, same: _Same) -> NDArray[np.int64]:
        """Pairs [n, 2] of texts whose signatures agree in a band; of equal texts the first alone."""
        own = np.flatnonzero(same.leader == np.arange(len(same.leader)))
        keys = self._bands()
        found: list[NDArray[np.int64]] = [np.zeros(0, np.int64)]
        size = max(len(self.counts), 1)
        for band in range(BANDS):
            low, high = _bucketed(own, keys[own, band])
            found.append(np.minimum(low, high) * size + np.maximum(low, high))
            if sum(map(len, found)) > MANY:
                found = [_once(found)]
        pairs = _once(found)
        return np.stack([pairs // size, pairs % size], 1)

    def _bands(self) -> NDArray[np.uint64]:
        draw = np.random.default_rng(0x10717)
        factors = draw.integers(0, 1 << 63, BANDS * ROWS, np.uint64) * np.uint64(2) + np.uint64(1)
        shifts = draw.integers(0, 1 << 63, BANDS * ROWS, np.uint64)
        keys = np.zeros((len(self.counts), BANDS), np.uint64)
        with np.errstate(over="ignore"):
            for part in self._chunks():
                flat, starts = self._together(part)
                for k in range(BANDS * ROWS):
                    least = np.minimum.reduceat((flat * factors[k] + shifts[k]) >> np.uint64(32), starts)
                    keys[part, k // ROWS] = _mixed(keys[part, k // ROWS] + least)
        return keys

    def _chunks(self) -> Iterable[slice]:
        """Slices of texts with about CHUNK_WORDS shingles together."""
        cuts = np.cumsum(self.counts) // CHUNK_WORDS
        edges = [0, *(np.flatnonzero(np.diff(cuts)) + 1).tolist(), len(self.counts)]
        return [slice(a, b) for a, b in itertools.pairwise(edges) if b > a]

    def _together(self, part: slice | NDArray[np.int64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        """The shingles of some texts end to end, and where each text starts."""
        places, starts = self._places(part)
        return self.flat[places], starts

    def _places(self, part: slice | NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        counts = self.counts[part]
        starts = np.cumsum(counts) - counts
        return np.arange(int(counts.sum())) + np.repeat(self.starts[part] - starts, counts), starts

    def portions(self, pairs: NDArray[np.int64]) -> list[NDArray[np.int64]]:
        """The pairs, so many at a time that they hold about PORTION shingles."""
        cuts = np.flatnonzero(np.diff(np.cumsum(self.counts[pairs].sum(1)) // PORTION)) + 1
        return np.split(pairs, cuts)

    def verified(self, pairs: NDArray[np.int64], threshold: float) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """Those of the pairs that are alike, compared exactly."""
        rows, back = np.unique(pairs, return_inverse=True)
        back = back.reshape(pairs.shape)
        owner = np.repeat(np.arange(len(rows)), self.counts[rows])
        marked = _once([owner << 32 | self.ranks[self._places(rows)[0]]])
        flat, sizes = marked & 0xFFFFFFFF, np.bincount(marked >> 32, minlength=len(rows))
        begins = np.cumsum(sizes) - sizes
        a, b = back[:, 0], back[:, 1]
        both = _common(flat, begins, sizes, a, b)
        similarity = both / np.maximum(sizes[a] + sizes[b] - both, 1)
        for i in np.flatnonzero(similarity < threshold).tolist():
            similarity[i] = max(similarity[i], self._beginning(int(pairs[i, 0]), int(pairs[i, 1]), threshold))
        kept = similarity >= threshold
        return pairs[kept, 0], pairs[kept, 1], similarity[kept]

    def _beginning(self, a: int, b: int, threshold: float) -> float:
        """How much of the longer text the shorter one is, where it is its beginning; a last word may be cut."""
        short, long = sorted((a, b), key=lambda i: int(self.counts[i]))
        count, most = int(self.counts[short]), int(self.counts[long])
        if count < threshold * most:
            return 0.0
        one, other = self.starts[short], self.starts[long]
        return count / most if np.array_equal(self.flat[one : one + count - 1], self.flat[other : other + count - 1]) else 0.0


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Numbers scattered over 64 bits (SplitMix64's finaliser; Steele, Lea and Flood, 2014)."""
    with np.errstate(over="ignore"):
        values = (values + np.uint64(0x9E3779B97F4A7C15)).astype(np.uint64)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
        return values ^ (values >> np.uint64(31))


def _bucketed(rows: NDArray[np.int64], keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All pairs of rows with the same key, in buckets up to NEIGHBOURS; in larger ones each with its neighbours and the first."""
    order = np.argsort(keys, kind="stable")
    rows, keys = rows[order], keys[order]
    low: list[Any] = [np.zeros(0, np.int64)]
    high: list[Any] = [np.zeros(0, np.int64)]
    begins = np.flatnonzero(np.r_[True, keys[1:] != keys[:-1]]) if len(keys) else np.zeros(0, np.int64)
    here = np.arange(len(keys))
    for apart in range(1, NEIGHBOURS + 1):
        here = here[here + apart < len(keys)]
        here = here[keys[here] == keys[here + apart]]
        if not len(here):
            break
        low.append(rows[here])
        high.append(rows[here + apart])
    sizes = np.diff(np.r_[begins, len(keys)])
    for begin, size in zip(begins[sizes > NEIGHBOURS].tolist(), sizes[sizes > NEIGHBOURS].tolist(), strict=True):
        low.append(np.full(size - 1, rows[begin]))
        high.append(rows[begin + 1 : begin + size])
    return np.concatenate(low), np.concatenate(high)


def _common(
    flat: NDArray[np.int64], begins: NDArray[np.int64], sizes: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64]
) -> NDArray[np.int64]:
    """How many elements the sets a and b of each pair share; set i is flat[begins[i]:][:sizes[i]]."""
    total = sizes[a] + sizes[b]
    pair = np.repeat(np.arange(len(a)), total)
    ends = np.cumsum(total)
    inside = np.arange(int(total.sum())) - np.repeat(ends - total, total)
    from_a = inside < sizes[a][pair]
    places = np.where(from_a, begins[a][pair] + inside, begins[b][pair] + inside - sizes[a][pair])
    marked = np.sort(pair << 32 | flat[places])
    return np.bincount(marked[1:][marked[1:] == marked[:-1]] >> 32, minlength=len(a))


def _once(numbers: list[NDArray[np.int64]]) -> NDArray[np.int64]:
    """Each number once, in order; sorting is faster here than numpy's hashing of unique numbers."""
    found = np.sort(np.concatenate(numbers))
    return found[np.r_[True, found[1:] != found[:-1]]] if len(found) else found
