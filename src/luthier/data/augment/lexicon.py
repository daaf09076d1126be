"""Synonyms from a file of the user's."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.augment.augmenter import Ask, Draft, Source, count_of, varied
from luthier.data.rows import decode
from luthier.errors import DataError

if TYPE_CHECKING:
    from luthier.recipe.augment.lexicon import LexiconOptions

WORD = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")


class Lexicon:
    """Replaces words that the file has, in their case."""

    def __init__(self, options: LexiconOptions, pool: Sequence[Source], *, folder: Path, where: str) -> None:
        """Raises DataError for a file that is not there or holds no synonyms."""
        self.options, self.pool = options, pool
        self._synonyms = read_lexicon((folder / Path(options.file).expanduser()), where=f"{where}.file")

    def __call__(self, asked: Sequence[Ask]) -> list[Draft]:
        found = []
        for a in asked:
            text = self.pool[a.place].text
            found.append(varied(replaced(text, self._synonyms, rate=self.options.rate, draw=a.draw), text))
        return found


def read_lexicon(path: Path, *, where: str) -> dict[str, list[str]]:
    """Word -> synonyms, in lower case; an empty line or one that begins with # says nothing.

    Raises DataError that names the file and line.
    """
    try:
        text, _ = decode(path.read_bytes(), path)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}", where=where, remedy="give a text file of synonyms") from None
    found: dict[str, list[str]] = {}
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        word, *synonyms = [" ".join(part.split()) for part in line.replace("\t", ",").split(",")]
        if not word or not any(synonyms):
            raise DataError("has no synonym", where=f"{path}:{number}", remedy="write: word, synonym, another synonym")
        found.setdefault(word.lower(), []).extend(s for s in synonyms if s and s.lower() != word.lower())
    if not found:
        raise DataError(f"{path} holds no synonyms", where=where, remedy="write on each line: word, synonym, another synonym")
    return found


def replaced(text: str, synonyms: Mapping[str, Sequence[str]], *, rate: float, draw: random.Random) -> str:
    """The text with some of the words that have synonyms replaced, a share `rate` of all its words."""
    words = list(WORD.finditer(text))
    known = [w for w in words if synonyms.get(w.group().lower())]
    chosen = {w.start(): w for w in draw.sample(known, min(len(known), count_of(rate, len(words))))} if known else {}

    def other(match: re.Match[str]) -> str:
        if match.start() not in chosen:
            return match.group()
        return _cased(match.group())(draw.choice(synonyms[match.group().lower()]))

    return WORD.sub(other, text)


def _cased(word: str) -> Callable[[str], str]:
    """How a word is written that stands in this one's place."""
    if len(word) > 1 and word.isupper():
        return str.upper
    if word[:1].isupper():
        return lambda other: other[:1].upper() + other[1:]
    return lambda other: other
