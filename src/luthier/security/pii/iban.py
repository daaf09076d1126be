"""International bank account numbers: the country's length and the remainder by 97."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.security.pii.checks import mod97
from luthier.security.pii.span import Span

# Length and its countries: ISO 13616 registry (SWIFT).
_COUNTRIES = {
    15: "NO",
    16: "BE",
    18: "DK FI FK FO GL NL SD",
    19: "MK SI",
    20: "AT BA EE KZ LT LU MN XK",
    21: "CH HR LI LV",
    22: "BG BH CR DE GB GE IE ME RS VA",
    23: "AE GI IL IQ OM SO TL",
    24: "AD CZ ES MD PK RO SA SE SK TN VG",
    25: "LY PT ST",
    26: "IS TR",
    27: "BI DJ FR GR IT MC MR SM",
    28: "AL AZ BY CY DO GT HU LB NI PL SV",
    29: "BR EG PS QA UA",
    30: "JO KW MU YE",
    31: "MT SC",
    32: "LC",
    33: "RU",
}
LENGTHS = {country: length for length, countries in _COUNTRIES.items() for country in countries.split()}
_START = re.compile(r"(?<![A-Za-z0-9])[A-Za-z]{2}[0-9]{2}(?=[ -]?[A-Za-z0-9])")


def iban(text: str) -> Iterator[Span]:
    """Accounts, in one run or in groups, in either case."""
    for match in _START.finditer(text):
        length = LENGTHS.get(match.group()[:2].upper())
        if length is None:
            continue
        place, letters = match.end(), match.group()
        while len(letters) < length and place < len(text):
            here = text[place]
            if here.isascii() and here.isalnum():
                letters += here
            elif here not in " -" or not text[place - 1].isalnum():
                break
            place += 1
        whole = len(letters) == length and not (place < len(text) and text[place].isascii() and text[place].isalnum())
        if whole and mod97(letters.upper()):
            yield Span(match.start(), place, "iban", 0.99)
