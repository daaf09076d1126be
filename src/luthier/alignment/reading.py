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
    r"""(?:(?<![\w.)\]])[-+\u2212][$\u20ac\u00a3\u00a5]?)?  # a sign, unless it stands between two things, as in 3-4; it may stand before $
        (?<![A-Za-z_])                         # not the 2 of B2B
        (?:(?:\d{1,3}(?:,\d{3})+(?![\d])|\d+)  # 1,234 or 1234
        (?:\.\d+)?|(?<!\d)\.\d+)               # 18.5 or .5
        (?:[eE][-+]?\d+)?""",
    re.VERBOSE | re.ASCII,
)
MARK = "####"
"""What stands before the answer in the style of GSM8K (Cobbe et al. 2021)."""
OUT_OF = re.compile(r"\W*(?:[/\u2044]|(?:out\s+)?of)\W*", re.IGNORECASE)
"""What stands between a grade and the highest one."""
FENCE = re.compile(r"^[ \t]*```[ \t]*([\w+-]*)[^\n]*\n(.*?)(?:^[ \t]*```|\Z)", re.DOTALL | re.MULTILINE)
ARTICLES = re.compile(r"\b(a|an|the)\b")
_PLAIN = str.maketrans({"\u2212": "-", **dict.fromkeys(",$\u20ac\u00a3\u00a5", "")})
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
    return _value(found[0 if marked[1] else -1]) if found else None


def last_grade(text: str, *, highest: float) -> Decimal | None:
    """The grade of the last "8/10" or "8 out of 10", where 10 is the highest; where there is none, the last number of the text."""
    text = text.rpartition(MARK)[2] if MARK in text else text
    found, place, grade = list(NUMBER.finditer(text)), 0, None
    while place + 1 < len(found):
        value, bound = found[place : place + 2]
        pair = OUT_OF.fullmatch(text[value.end() : bound.start()]) and _value(bound) == Decimal(str(highest))
        grade = _value(value) if pair else grade
        place += 2 if pair else 1
    return last_number(text) if grade is None else grade


def _value(found: re.Match[str]) -> Decimal | None:
    try:
        return Decimal(found[0].translate(_PLAIN))
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
