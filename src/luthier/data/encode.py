"""Texts to token ids in Arrow, a part after the other.

Enters: texts, and their pairs, and a tokenizer. Leaves: parts: lists of int32 ids and types, and how many texts were cut. Many texts of
a tokenizer that allows it are encoded word by word (`wordwise`), which gives the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.data.wordwise import by_word, frame

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

CHUNK = 1024
FEW = 2048
"""Of fewer texts than this, words are not looked for."""


class Part(NamedTuple):
    """Some texts: lists of ids and of types, and how many were cut."""

    ids: pa.ListArray
    types: pa.ListArray
    cut: int

    def empty(self) -> int | None:
        """The first text without a token."""
        import pyarrow.compute as pc

        place = pc.index(pc.list_value_length(self.ids), 0).as_py()
        return None if place < 0 else int(place)


def bound(tokenizer: Tokenizer, max_length: int | None) -> None:
    """Let it cut texts to so many tokens; None: not at all."""
    tokenizer.no_truncation() if max_length is None else tokenizer.enable_truncation(max_length)


def encoded(
    texts: Sequence[str], pairs: Sequence[str | None] | None, tokenizer: Tokenizer, *, max_length: int | None, special: bool
) -> Iterator[Part]:
    """Every text, in order. The tokenizer is bound to `max_length` before and after."""
    import numpy as np

    try:
        tokenizer.no_truncation()
        around = frame(tokenizer, texts, max_length=max_length, special=special) if pairs is None and len(texts) >= FEW else None
    finally:
        bound(tokenizer, max_length)
    if around is None:
        yield from _whole(texts, pairs, tokenizer, special)
        return
    try:
        tokenizer.no_truncation()
        for words in by_word(texts, tokenizer, around, max_length=max_length):
            yield Part(_cut(words.ids, words.ends), _cut(np.zeros_like(words.ids), words.ends), words.cut)
    finally:
        bound(tokenizer, max_length)


def _whole(texts: Sequence[str], pairs: Sequence[str | None] | None, tokenizer: Tokenizer, special: bool) -> Iterator[Part]:
    import numpy as np

    for encodings in _encoded(texts, pairs, tokenizer, special):
        ids = _lists([e.ids for e in encodings])
        plain = pairs is None and not any(encodings[0].type_ids)  # the types of a text alone depend on its template alone
        types = _cut(np.zeros(len(ids.values), np.int32), ids.offsets.to_numpy()[1:]) if plain else _lists([e.type_ids for e in encodings])
        yield Part(ids, types, sum(bool(e.overflowing) for e in encodings))


def _encoded(texts: Sequence[str], pairs: Sequence[str | None] | None, tokenizer: Tokenizer, special: bool) -> Iterator[list[Any]]:
    """The encodings of a chunk after the other; the next one is encoded while the caller has the last."""
    from concurrent.futures import ThreadPoolExecutor

    def encode(start: int) -> list[Any]:
        chunk: list[Any] = list(texts[start : start + CHUNK])
        if pairs is not None:
            chunk = [(a, b) if b is not None else a for a, b in zip(chunk, pairs[start : start + CHUNK], strict=True)]
        return tokenizer.encode_batch_fast(chunk, add_special_tokens=special)

    starts = range(0, len(texts), CHUNK)
    with ThreadPoolExecutor(1) as ahead:
        following = ahead.submit(encode, 0) if texts else None
        for start in starts:
            assert following is not None
            encodings = following.result()
            following = ahead.submit(encode, start + CHUNK) if start + CHUNK < len(texts) else None
            yield encodings


def _lists(rows: list[list[int]]) -> pa.ListArray:
    """Lists of int32, by way of one flat array."""
    import itertools

    import numpy as np

    ends = np.cumsum(np.fromiter(map(len, rows), np.int64, len(rows)))
    return _cut(np.fromiter(itertools.chain.from_iterable(rows), np.int32, int(ends[-1])), ends)


def _cut(flat: NDArray[np.int32], ends: NDArray[Any]) -> pa.ListArray:
    """A flat array as lists that end there."""
    import numpy as np
    import pyarrow as pa

    return pa.ListArray.from_arrays(pa.array(np.concatenate([[0], ends]), pa.int32()), pa.array(flat))
