"""How much worse a probe may get: `drop > 0.02`, as recipes have it."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

GENERAL, EARLIER = "general", "earlier:"
"""The probe of plain English, and the beginning of the name of an earlier run's."""


class Limit(NamedTuple):
    """A probe that changes for the worse by more than `most` in its main score fails."""

    direction: Literal["drop", "rise"]
    most: float

    def __str__(self) -> str:
        return f"{self.direction} > {self.most:g}"


def limit(text: str) -> Limit:
    """Read one. Raises ValueError for anything but drop or rise, `>`, and a number that is not negative."""
    found = re.fullmatch(r"\s*(drop|rise)\s*>\s*(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?\s*", text)
    if found is None:
        raise ValueError(f"fail_if says {text!r}: write it like `drop > 0.02`, or `rise > 0.1` for a score that is better when low")
    return Limit("drop" if found[1] == "drop" else "rise", float(found[2] + (found[3] or "")))
