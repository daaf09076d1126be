"""Two texts of the same label made one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.augment.augmenter import Ask, Draft, Source

if TYPE_CHECKING:
    from luthier.recipe.augment.mixing import MixingOptions

SENTENCE = re.compile(r"(?<=[.!?。！？])\s+|\n+")


class Mixing:
    """Joins a row with another of its label, or takes sentences of both."""

    def __init__(self, options: MixingOptions, pool: Sequence[Source], *, folder: Path, where: str) -> None:
        self.options, self.pool = options, pool
        self._of_label: dict[str, list[int]] = {}
        for place, source in enumerate(pool):
            self._of_label.setdefault(source.label, []).append(place)

    def __call__(self, asked: Sequence[Ask]) -> list[Draft]:
        return [self._mixed(a) for a in asked]

    def _mixed(self, ask: Ask) -> Draft:
        source = self.pool[ask.place]
        others = [p for p in self._of_label[source.label] if self.pool[p].text != source.text]
        if not others:
            return Draft(None, why="no other row has its label")
        place = ask.draw.choice(others)
        first, second = source.text, self.pool[place].text
        if self.options.how == "sentences":
            one, two = SENTENCE.split(first.strip()), SENTENCE.split(second.strip())
            if len(one) < 2 and len(two) < 2:
                return Draft(None, why="neither text has two sentences")
            first, second = " ".join(one[: (len(one) + 1) // 2]), " ".join(two[len(two) // 2 :])
        return Draft(first + self.options.separator + second, (place,))
