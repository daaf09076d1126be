"""Names of persons, from a list of names or from a model that is passed in; there is no list of names in here.

A list finds what it holds: whole words, in any case but all lower, names that follow each other as one.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence

from luthier.security.pii.span import Span

Finder = Callable[[Sequence[str]], Sequence[Sequence[Span]]]
"""Texts to the names in each: what a tagging run becomes, and a list."""

_WORD = re.compile(r"[^\W\d_]+(?:['’.-][^\W\d_]+)*")
_JOINT = re.compile(r"[ \t]{1,2}|\.? ")
_INITIAL = re.compile(r"[^\W\d_]\.?")


def from_list(names: Iterable[str]) -> Finder:
    """A finder for the names of a list, whole names or parts of them."""
    known: set[str] = set()
    for name in names:
        known.update(w.casefold() for w in _WORD.findall(name) if len(w) > 1)

    def find(texts: Sequence[str]) -> list[list[Span]]:
        return [list(_listed(text, known)) for text in texts]

    return find


def _listed(text: str, known: set[str]) -> Iterator[Span]:
    start = end = -1
    pending = -1
    for match in _WORD.finditer(text):
        word = match.group()
        hit = not word.islower() and word.casefold() in known
        joined = end >= 0 and _JOINT.fullmatch(text, pending if pending >= 0 else end, match.start()) is not None
        if hit and joined:
            end, pending = match.end(), -1
        elif joined and not hit and pending < 0 and _INITIAL.fullmatch(word) and word.isupper():
            pending = match.end()
        else:
            if end >= 0:
                yield Span(start, end, "name", 0.7)
            start, end, pending = (match.start(), match.end(), -1) if hit else (-1, -1, -1)
    if end >= 0:
        yield Span(start, end, "name", 0.7)
