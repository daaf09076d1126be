"""Words that hurt, and who is talked about: two measures of texts that need no model.

Enters: texts, with their labels where there are any. Leaves: counts, and shares with 95% intervals (Wilson 1927). Both read English
words from short lists and nothing else: they see no irony, quotation, dialect or other language, miss what is not on a list, and count
what is said about a group like what is said against it. They tell where to look, not what is so. A list of the user's own, or a
classifier that is passed in, measures better.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from luthier.data.lexicon import MENTIONS, TOXIC

Judge = Callable[[Sequence[str]], Sequence[bool]]
"""Texts to whether each is toxic: what a classification run becomes."""
FEWEST = 20
"""Rows that a group must have for its labels to be compared."""


@dataclass(frozen=True)
class Share:
    """A share of some rows with its 95% interval."""

    value: float
    low: float
    high: float
    n: int


def wilson(hits: int, n: int) -> Share:
    """Wilson's interval of a share; of no rows it is everything."""
    if n == 0:
        return Share(math.nan, 0.0, 1.0, 0)
    z, p = 1.959964, hits / n
    middle, half = p + z * z / (2 * n), z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    return Share(p, max(0.0, (middle - half) / scale), min(1.0, (middle + half) / scale), n)


@dataclass(frozen=True)
class Lean:
    """A label that rows about a group have more, or less, often than all rows have: their intervals do not meet."""

    attribute: str
    group: str
    label: str
    group_share: Share
    share: Share


@dataclass
class Ethics:
    """Counts over rows, a batch at a time; `judge` says which texts are toxic where there is one, `own` is a list of the user's."""

    judge: Judge | None = None
    own: re.Pattern[str] | None = None
    rows: int = 0
    toxic: Counter[str] = field(default_factory=Counter)
    """Kind of word -> rows; `any word`; `judged toxic`."""
    groups: Counter[tuple[str, str]] = field(default_factory=Counter)
    labels: Counter[str] = field(default_factory=Counter)
    group_labels: Counter[tuple[str, str, str]] = field(default_factory=Counter)

    def add(self, texts: Sequence[str], labels: Sequence[str] | None = None) -> None:
        """Count some rows."""
        patterns = {**TOXIC, **({"own list": self.own} if self.own else {})}
        self.rows += len(texts)
        if labels is not None:
            self.labels.update(labels)
        for place, text in enumerate(texts):
            kinds = [kind for kind, pattern in patterns.items() if pattern.search(text)]
            self.toxic.update([*kinds, *(["any word"] if kinds else [])])
            for key, pattern in MENTIONS.items():
                if pattern.search(text):
                    self.groups[key] += 1
                    if labels is not None:
                        self.group_labels[*key, labels[place]] += 1
        if self.judge is not None:
            self.toxic["judged toxic"] += sum(self.judge(texts))

    def leans(self) -> list[Lean]:
        """Labels that are unlike among rows about a group, the widest gap first; groups of few rows are left out."""
        found = []
        for (attribute, group), n in self.groups.items():
            for label, count in self.labels.items() if n >= FEWEST else ():
                share, among = wilson(count, self.rows), wilson(self.group_labels[attribute, group, label], n)
                if among.low > share.high or among.high < share.low:
                    found.append(Lean(attribute, group, label, among, share))
        return sorted(found, key=lambda x: -abs(x.group_share.value - x.share.value))

    def summary(self) -> dict[str, Any]:
        """The figures, as the card has them."""
        kinds = [*TOXIC, *(["own list"] if self.own else []), "any word", *(["judged toxic"] if self.judge else [])]
        return {
            "rows": self.rows,
            "toxic": {kind: asdict(wilson(self.toxic[kind], self.rows)) for kind in kinds},
            "mentions": {
                attribute: {g: self.groups[attribute, g] for a, g in MENTIONS if a == attribute}
                for attribute in dict.fromkeys(a for a, _ in MENTIONS)
            },
            "leans": [asdict(lean) for lean in self.leans()],
        }
