"""Typing errors."""

from __future__ import annotations

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.augment.augmenter import Ask, Draft, Source, count_of, varied

if TYPE_CHECKING:
    from luthier.recipe.augment.noise import NoiseOptions


class Noise:
    """Letters swapped with the next, left out, doubled, or replaced by another letter of the training texts."""

    def __init__(self, options: NoiseOptions, pool: Sequence[Source], *, folder: Path, where: str) -> None:
        self.options, self.pool = options, pool
        self._letters = sorted({c.lower() for s in pool for c in s.text if c.isalpha()})

    def __call__(self, asked: Sequence[Ask]) -> list[Draft]:
        return [varied(self._noisy(self.pool[a.place].text, a.draw), self.pool[a.place].text) for a in asked]

    def _noisy(self, text: str, draw: random.Random) -> str:
        places = [i for i, c in enumerate(text) if c.isalpha()]
        letters = list(text)
        for place in draw.sample(places, count_of(self.options.rate, len(places))):
            letter, kind = letters[place], draw.choice(self.options.kinds)
            if kind == "delete":
                letters[place] = ""
            elif kind == "double":
                letters[place] = letter * 2
            elif kind == "replace":
                other = draw.choice(self._letters)
                letters[place] = other.upper() if letter.isupper() else other
            elif place + 1 < len(letters) and text[place + 1].isalpha():
                letters[place], letters[place + 1] = letters[place + 1], letter
        return "".join(letters)
