"""Texts to token ids, each different word once.

Enters: texts and a tokenizer in which a word's tokens do not hang on its neighbours: BERT's kind, which splits texts at spaces before
anything else is looked at. Leaves: what the tokenizer itself would give, several times faster, for most words of a file stand in it
many times. Words are what stands between spaces (U+0020); whatever else there is to a word is the tokenizer's affair.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

CHUNK, CHARACTERS = 65_536, 8 << 20
"""Texts, and characters of them, whose words are looked at together at most."""
TRIED = 64
"""Texts that are encoded whole as well, to see that nothing differs."""
MODELS = ("WordPiece", "WordLevel")
NORMALIZERS = (None, "BertNormalizer", "Lowercase")
SPLITTERS = ("BertPreTokenizer", "Whitespace", "WhitespaceSplit")
"""Those that split at every space and keep none, and see each part by itself."""


@dataclass(frozen=True)
class Frame:
    """The tokens that stand before and after every text."""

    before: tuple[int, ...]
    after: tuple[int, ...]


def frame(tokenizer: Tokenizer, texts: Sequence[str], *, max_length: int | None, special: bool) -> Frame | None:
    """What stands around each text; None where texts must be encoded whole. The tokenizer must not cut."""
    if not _separable(tokenizer):
        return None
    tried = texts[:: max(1, len(texts) // TRIED)][:TRIED]
    first = max(tried, key=len, default="")
    whole = tokenizer.encode(first, add_special_tokens=special)
    inner = [i for i, mark in enumerate(whole.special_tokens_mask) if not mark]
    if not inner or inner != list(range(inner[0], inner[-1] + 1)) or any(whole.type_ids):
        return None
    found = Frame(tuple(whole.ids[: inner[0]]), tuple(whole.ids[inner[-1] + 1 :]))
    if max_length is not None and max_length <= len(found.before) + len(found.after):
        return None
    ours = [ids for part in by_word(tried, tokenizer, found, max_length=None) for ids in part.lists()]
    theirs = [e.ids for e in tokenizer.encode_batch_fast(list(tried), add_special_tokens=special)]
    return found if ours == theirs else None


def _separable(tokenizer: Tokenizer) -> bool:
    """Whether a space always ends what is looked at together."""
    made: dict[str, Any] = json.loads(tokenizer.to_str())
    return (
        made["model"]["type"] in MODELS
        and (made["normalizer"] or {}).get("type") in NORMALIZERS
        and (made["pre_tokenizer"] or {}).get("type") in SPLITTERS
        and not any(sign.isspace() for token in made["added_tokens"] for sign in token["content"])
    )


@dataclass(frozen=True)
class Words:
    """Some texts: their ids end to end, where each text ends, and how many were cut."""

    ids: NDArray[np.int32]
    ends: NDArray[np.int64]
    cut: int

    def lists(self) -> list[list[int]]:
        """The ids of each text."""
        import numpy as np

        return [part.tolist() for part in np.split(self.ids, self.ends[:-1])]


def by_word(texts: Sequence[str], tokenizer: Tokenizer, around: Frame, *, max_length: int | None) -> Iterator[Words]:
    """The texts' ids, a chunk after the other; the tokenizer must not cut."""
    start = size = 0
    for place, text in enumerate(texts):
        if place > start and (place - start == CHUNK or size + len(text) > CHARACTERS):
            yield _chunk(texts[start:place], tokenizer, around, max_length)
            start, size = place, 0
        size += len(text)
    yield _chunk(texts[start:], tokenizer, around, max_length)


def _chunk(texts: Sequence[str], tokenizer: Tokenizer, around: Frame, max_length: int | None) -> Words:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    split = pc.split_pattern(pa.array(texts, pa.large_string()), " ")
    words = split.flatten().dictionary_encode()
    place = words.indices.to_numpy()
    encoded = [e.ids for e in tokenizer.encode_batch_fast(words.dictionary.to_pylist(), add_special_tokens=False)]
    sizes = np.fromiter(map(len, encoded), np.int64, len(encoded))
    pieces = np.fromiter((i for ids in encoded for i in ids), np.int32, int(sizes.sum()))
    of_word = sizes[place]
    until = np.concatenate([[0], np.cumsum(of_word)])
    bounds = until[split.offsets.to_numpy()]
    ids = pieces[_runs((np.cumsum(sizes) - sizes)[place], of_word)]
    return _framed(ids, bounds, around, max_length)


def _framed(ids: NDArray[np.int32], bounds: NDArray[np.int64], around: Frame, max_length: int | None) -> Words:
    """Each text, ids[bounds[i]:bounds[i + 1]], cut to its place and put between what stands around it."""
    import numpy as np

    lengths = np.diff(bounds)
    fixed = len(around.before) + len(around.after)
    kept = lengths if max_length is None else np.minimum(lengths, max(0, max_length - fixed))
    ends = np.cumsum(kept + fixed)
    found = np.empty(int(ends[-1]), np.int32)
    starts = ends - kept - fixed
    for place, token in enumerate(around.before):
        found[starts + place] = token
    for place, token in enumerate(around.after):
        found[ends - len(around.after) + place] = token
    found[_runs(starts + len(around.before), kept)] = ids[_runs(bounds[:-1], kept)]
    return Words(found, ends, int((kept < lengths).sum()))


def _runs(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """starts[0], starts[0] + 1, ... for so many numbers as its size says, then those from starts[1], and so on."""
    import numpy as np

    before = np.cumsum(sizes) - sizes
    return np.repeat(starts - before, sizes) + np.arange(int(sizes.sum()))
