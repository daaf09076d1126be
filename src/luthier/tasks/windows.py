"""Questions and passages as windows of tokens: a passage that is too long is shown piece by piece, with overlap.

Enters: pairs of texts and a tokenizer. Leaves: windows laid out as the tokenizer lays out a pair, each with the
characters of the passage that its tokens stand for.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.data.tokens import UNGRADED

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

CHUNK = 1000
LEAST = 16
"""Tokens of a passage that a window should hold at least; a question that leaves less is refused."""


class Piece(NamedTuple):
    """A text in tokens: ids (n,), and offsets (n, 2) in characters, without the white space around them."""

    ids: NDArray[np.int32]
    offsets: NDArray[np.int64]


class Window(NamedTuple):
    """One window; `begins` and `ends` are characters of the passage, UNGRADED elsewhere; `first` is its first token of it."""

    ids: NDArray[np.int32]
    types: NDArray[np.int32]
    begins: NDArray[np.int32]
    ends: NDArray[np.int32]
    first: int
    place: int
    """Where in the window the passage begins."""


@dataclass(frozen=True)
class Frame:
    """What a tokenizer puts around a pair: special tokens before, between and after, and the type of each part."""

    before: tuple[int, ...]
    between: tuple[int, ...]
    after: tuple[int, ...]
    types: tuple[int, int, int, int, int]

    @property
    def size(self) -> int:
        return len(self.before) + len(self.between) + len(self.after)

    def windows(self, question: Piece, passage: Piece, *, max_length: int, stride: int) -> Iterator[Window]:
        """The windows over a passage, each of `max_length` tokens at most, `stride` of them shared with the next.

        The question must leave room (`room`).
        """
        import numpy as np

        room = self.room(question, max_length)
        step = room - min(stride, room // 2)
        ahead = (*self.before, *question.ids.tolist(), *self.between)
        for first in range(0, max(1, len(passage.ids) - room + step), step):
            held = slice(first, first + room)
            ids = np.array([*ahead, *passage.ids[held].tolist(), *self.after], dtype=np.int32)
            sizes = (len(self.before), len(question.ids), len(self.between), len(passage.ids[held]), len(self.after))
            marks = np.full((2, len(ids)), UNGRADED, dtype=np.int32)
            real = passage.offsets[held].T
            marks[:, len(ahead) : len(ahead) + sizes[3]] = np.where(real[0] < real[1], real, UNGRADED)
            yield Window(ids, np.repeat(np.array(self.types, dtype=np.int32), sizes), marks[0], marks[1], first, len(ahead))

    def room(self, question: Piece, max_length: int) -> int:
        """Tokens of a passage that fit beside the question."""
        return max_length - self.size - len(question.ids)


def pieces(texts: Sequence[str], backend: Any) -> dict[str, Piece]:
    """Each different text in tokens, without special ones."""
    import numpy as np

    backend.no_padding()
    backend.no_truncation()
    different = list(dict.fromkeys(texts))
    found: dict[str, Piece] = {}
    for first in range(0, len(different), CHUNK):
        part = different[first : first + CHUNK]
        for text, encoding in zip(part, backend.encode_batch(part, add_special_tokens=False), strict=True):
            bare = [_bare(text, begin, end) for begin, end in encoding.offsets]
            found[text] = Piece(np.array(encoding.ids, dtype=np.int32), np.array(bare, dtype=np.int64).reshape(-1, 2))
    return found


def _bare(text: str, begin: int, end: int) -> tuple[int, int]:
    """Offsets without white space at either side; byte-level tokens begin with the space before them."""
    while begin < end and text[begin].isspace():
        begin += 1
    while end > begin and text[end - 1].isspace():
        end -= 1
    return begin, end


def frame_of(backend: Any, question: str, passage: str) -> Frame:
    """What the tokenizer puts around a pair, seen on one whose texts have tokens."""
    backend.no_padding()
    backend.no_truncation()
    whole = backend.encode(question, passage)
    order, ids, types = whole.sequence_ids, whole.ids, whole.type_ids
    a, b = order.index(0), order.index(1)
    a_end, b_end = len(order) - order[::-1].index(0), len(order) - order[::-1].index(1)
    spots = (0, a, a_end, b, b_end)
    kinds = tuple(types[s] if s < len(types) else 0 for s in spots)
    return Frame(tuple(ids[:a]), tuple(ids[a_end:b]), tuple(ids[b_end:]), kinds)  # type: ignore[arg-type]
