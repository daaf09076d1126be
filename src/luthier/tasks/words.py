"""Words and the tokens that they begin with: words given or found in a text, long texts in windows that overlap.

Enters: texts or lists of words, and a tokenizer. Leaves: windows of tokens in which the first token of each word is
marked with the word's number; each word is marked in one window alone, the one where it has most context.
"""

from __future__ import annotations

import bisect
import unicodedata
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from luthier.data.prepare import Words
from luthier.data.tokens import UNGRADED
from luthier.errors import ModelError

if TYPE_CHECKING:
    from tokenizers import Encoding, Tokenizer

CHUNK = 2000
ALONE = (
    (0x0E00, 0x0EFF), (0x0F00, 0x0FFF), (0x1000, 0x109F), (0x1780, 0x17FF), (0x3040, 0x30FF), (0x3100, 0x312F), (0x31F0, 0x31FF),
    (0x3400, 0x4DBF), (0x4E00, 0x9FFF), (0xF900, 0xFAFF), (0xFF66, 0xFF9F), (0x20000, 0x3FFFF),
)  # fmt: skip
"""Scripts that write no spaces: Thai, Lao, Tibetan, Burmese, Khmer, kana, bopomofo, Chinese characters."""
JOINERS = "\u00ad\u200c\u200d\u2060"
EXTENDERS = range(0x1F3FB, 0x1F400)
"""Skin tones."""
FLAGS = range(0x1F1E6, 0x1F200)
TAGS = range(0xE0020, 0xE0080)


class Window(NamedTuple):
    """One window: ids, types, and the number of the word that begins at each token, UNGRADED elsewhere."""

    ids: list[int]
    types: list[int]
    words: list[int]


def split(text: str) -> list[tuple[int, int]]:
    """Where the words of a text are, [start, end).

    A run of letters and digits is a word, every other visible character one by itself. Marks, joiners, skin tones and
    parts of flags stay with what they belong to. Scripts without spaces give a word a character. White space and
    invisible characters belong to no word.
    """
    found: list[tuple[int, int]] = []
    before, glued, flags = "", False, 0
    for place, character in enumerate(text):
        kind = _kind(character)
        touching = bool(found) and found[-1][1] == place
        if kind == "space":
            before, glued = kind, False
            continue
        pair = kind == "flag" and before == "flag" and flags % 2 == 1
        grows = touching and (kind == "mark" or glued or pair or (kind == before == "run"))
        if grows:
            found[-1] = (found[-1][0], place + 1)
        else:
            found.append((place, place + 1))
        flags = flags + 1 if pair or (kind == "flag" and before == "flag") else int(kind == "flag")
        glued = character == "\u200d"
        before = before if kind == "mark" and grows else kind
    return found


def _kind(character: str) -> str:
    """What a character does to words: space, mark (stays with what is before), run (joins its like), flag, or single."""
    code, category = ord(character), unicodedata.category(character)
    if category[0] == "M" or character in JOINERS or code in EXTENDERS or code in TAGS:
        return "mark"
    if character.isspace() or category[0] in "ZC":
        return "space"
    if code in FLAGS:
        return "flag"
    if category[0] in "LN":
        return "single" if any(low <= code <= high for low, high in ALONE) else "run"
    return "single"


def covered(offsets: Sequence[tuple[int, int]], start: int, end: int) -> tuple[int, int] | None:
    """The words, first and after the last, that a span of characters touches; None where it touches none."""
    touched = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
    return (touched[0], touched[-1] + 1) if touched else None


def windows(texts: Sequence[str], words: Sequence[Words], tokenizer: Any, *, max_length: int, stride: int) -> list[list[Window] | str]:
    """The windows of each text, each of `max_length` tokens at most, `stride` of them shared with the next; or why there are none.

    Words that were given are encoded one by one; a text is encoded as it is, and its words are found in it by characters,
    unless the tokenizer has them begin within one token.
    """
    backend: Tokenizer = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    room = max_length - backend.num_special_tokens_to_add(False)
    if room < 1:
        raise ModelError(f"{max_length} tokens leave no room for words", where="model.max_length", remedy="raise it")
    shared = min(stride, room // 2)
    found: list[list[Window] | str] = []
    backend.enable_truncation(max_length, stride=shared)
    try:
        for first in range(0, len(texts), CHUNK):
            held = slice(first, first + CHUNK)
            for (encoding, starts), own in zip(_encoded(texts[held], words[held], tokenizer, room - shared), words[held], strict=True):
                whole = len(starts) == len(own.forms)
                found.append(_laid([encoding, *encoding.overflowing], starts, room - shared) if whole else "a word has no tokens")
    finally:
        backend.no_truncation()
    return found


def _encoded(texts: Sequence[str], words: Sequence[Words], tokenizer: Any, step: int) -> list[tuple[Encoding, dict[int, int]]]:
    """Each text's encoding, and the token that each of its words begins with."""
    backend: Tokenizer = tokenizer.backend_tokenizer
    spaced = backend.encode(" a", add_special_tokens=False).ids != backend.encode("a", add_special_tokens=False).ids
    found: dict[int, tuple[Encoding, dict[int, int]]] = {}

    def incomplete() -> list[int]:
        return [i for i, w in enumerate(words) if i not in found or len(found[i][1]) < len(w.forms)]

    plain = [i for i, w in enumerate(words) if not w.given]
    for i, encoding in zip(plain, backend.encode_batch([texts[i] for i in plain]), strict=True):
        found[i] = encoding, _begun(encoding, step, offsets=words[i].offsets, text=texts[i])
    for unknown in (None, tokenizer.unk_token):
        alone = incomplete()
        if unknown is None or unknown:
            pieces = [_pieces(words[i], texts[i], found[i][1] if unknown else None, spaced=spaced, unknown=unknown) for i in alone]
            for i, encoding in zip(alone, backend.encode_batch(pieces, is_pretokenized=True), strict=True):  # type: ignore[arg-type]
                found[i] = encoding, _begun(encoding, step)
    return [found[i] for i in range(len(texts))]


def _pieces(words: Words, text: str, known: dict[int, int] | None, *, spaced: bool, unknown: str | None) -> list[str]:
    """What is encoded for each word: itself, after a space where the tokenizer tells the difference.

    Words that are not among the `known`, which have tokens, are `unknown`.
    """
    found = []
    for i, (form, (start, _)) in enumerate(zip(words.forms, words.offsets, strict=True)):
        after_space = i > 0 and (text[start - 1 : start].isspace() or words.offsets[i - 1] == words.offsets[i])
        form = form if known is None or i in known or unknown is None else unknown
        found.append(f" {form}" if spaced and after_space else form)
    return found


def _begun(encoding: Encoding, step: int, *, offsets: Sequence[tuple[int, int]] | None = None, text: str = "") -> dict[int, int]:
    """Word -> the token of the whole text that it begins with, by the encoding's own words or by characters."""
    found: dict[int, int] = {}
    begins = [start for start, _ in offsets or ()]
    for number, window in enumerate([encoding, *encoding.overflowing]):
        place = number * step - 1
        for special, word, (start, end) in zip(window.special_tokens_mask, window.word_ids, window.offsets, strict=True):
            if special:
                continue
            place += 1
            if offsets is not None:
                while start < end and text[start].isspace():
                    start += 1
                word = bisect.bisect_right(begins, start) - 1 if start < end else -1
                if word < 0 or start >= offsets[word][1]:
                    continue
            if word is not None:
                found.setdefault(word, place)
    return found


def _laid(encodings: Sequence[Encoding], starts: dict[int, int], step: int) -> list[Window]:
    """The windows, each word marked where it has most context: a window's edge counts only where the text goes on beyond it."""
    inner = [[i for i, special in enumerate(e.special_tokens_mask) if not special] for e in encodings]
    found = [Window(e.ids, e.type_ids, [UNGRADED] * len(e.ids)) for e in encodings]
    last = len(encodings) - 1
    for word, place in starts.items():
        best, chosen = -1.0, 0
        for number in range(min(place // step, last), -1, -1):
            own = place - number * step
            if own >= len(inner[number]):
                break
            left = float("inf") if number == 0 else own
            right = float("inf") if number == last else len(inner[number]) - 1 - own
            if min(left, right) >= best:
                best, chosen = min(left, right), number
        found[chosen].words[inner[chosen][place - chosen * step]] = word
    return found
