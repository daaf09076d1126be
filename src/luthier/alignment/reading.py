"""What is read out of a completion: an answer, a number, a block of code.

Enters: a text that a model wrote. Leaves: the part that is graded, or None where there is none.
"""

from __future__ import annotations

import re
import string
from collections import deque
from collections.abc import Collection
from decimal import Decimal, InvalidOperation

NUMBER = re.compile(
    r"""(?:(?<![\w.)\]])[-+\u2212])?           # a sign, unless it stands between two things, as in 3-4
        (?<![A-Za-z_])                         # not the 2 of B2B
        (?:(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)  # 1,234 or 1234
        (?:\.\d+)?|(?<!\d)\.\d+)               # 18.5 or .5
        (?:[eE][-+]?\d+)?""",
    re.VERBOSE | re.ASCII,
)
MARK = "####"
"""What stands before the answer in the style of GSM8K (Cobbe et al. 2021)."""
FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
ARTICLES = re.compile(r"\b(a|an|the)\b")
_NO_PUNCTUATION = str.maketrans("", "", string.punctuation)


def extracted(text: str, pattern: re.Pattern[str] | None) -> str | None:
    """The last match of a pattern, of that the first group if there is one; the whole text where there is no pattern."""
    if pattern is None:
        return text
    found = deque(pattern.finditer(text), maxlen=1)
    return found[0][1 if pattern.groups else 0] if found else None


def last_number(text: str) -> Decimal | None:
    """The last number of a text, or the first after the last `####`; None where there is none.

    Thousands may be set apart by commas. Digits that go on a word are no number.
    """
    marked = text.rpartition(MARK)
    found = list(NUMBER.finditer(marked[2]))
    if not found:
        return None
    written = found[0 if marked[1] else -1][0].replace(",", "").replace("\u2212", "-")
    try:
        return Decimal(written)
    except InvalidOperation:  # an exponent beyond all measure
        return None


def normalized(text: str, ways: Collection[str]) -> str:
    """A text without what makes no difference: case, punctuation, articles, runs of space."""
    if "case" in ways:
        text = text.casefold()
    if "punctuation" in ways:
        text = text.translate(_NO_PUNCTUATION)
    if "articles" in ways:
        text = ARTICLES.sub(" ", text)
    return " ".join(text.split()) if "space" in ways else text


def fenced(text: str, *, languages: Collection[str]) -> str | None:
    """What stands in the last fenced block in one of the languages, or in none; a block that is not closed ends with the text."""
    blocks = [m[2] for m in FENCE.finditer(text) if m[1].lower() in languages or not m[1]]
    return blocks[-1] if blocks else None
