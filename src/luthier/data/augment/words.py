"""Words swapped, left out and inserted (Wei and Zou, EDA, EMNLP 2019; inserted words come from rows of the same label)."""

from __future__ import annotations

import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.augment.augmenter import Ask, Draft, Source, count_of, varied

if TYPE_CHECKING:
    from luthier.recipe.augment.words import WordsOptions

WORD = re.compile(r"\S+")


class Words:
    """Spaces between words stay as they are; a text keeps one word at least."""

    def __init__(self, options: WordsOptions, pool: Sequence[Source], *, folder: Path, where: str) -> None:
        self.options, self.pool = options, pool
        self._of_label: dict[str, list[str]] = {}
        for source in pool:
            self._of_label.setdefault(source.label, []).extend(WORD.findall(source.text))

    def __call__(self, asked: Sequence[Ask]) -> list[Draft]:
        return [varied(self._moved(self.pool[a.place], a.draw), self.pool[a.place].text) for a in asked]

    def _moved(self, source: Source, draw: random.Random) -> str:
        pieces = re.split(r"(\s+)", source.text)
        for _ in range(count_of(self.options.rate, len(WORD.findall(source.text)))):
            places = [i for i, piece in enumerate(pieces) if piece and not piece.isspace()]
            kind = draw.choice(self.options.kinds)
            if kind == "insert":
                pieces.insert(draw.choice(places), draw.choice(self._of_label[source.label]) + " ")
                pieces = re.split(r"(\s+)", "".join(pieces))
            elif len(places) > 1 and kind == "swap":
                a, b = draw.sample(places, 2)
                pieces[a], pieces[b] = pieces[b], pieces[a]
            elif len(places) > 1 and kind == "delete":
                gone = draw.choice(places)
                space = gone + 1 if gone + 1 < len(pieces) else gone - 1
                pieces[gone] = pieces[space] = ""
        return "".join(pieces)
