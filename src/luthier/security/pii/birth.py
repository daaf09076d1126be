"""Dates of birth: a date that words of birth stand before. Dates without them are not personal data by themselves."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.security.pii.span import Span

_MONTH = (
    r"(?:jan(?:uary|uar|vier|\.)?|feb(?:ruary|ruar|\.)?|février|mar(?:ch|s|zo|\.)?|märz|apr(?:il|\.)?|avril|abril|may|mai|mayo|june?|juin|juni|junio|july?"
    r"|juillet|juli|julio|aug(?:ust|\.)?|août|agosto|sep(?:t|tember|tembre|tiembre|\.)?|o[ck]t(?:ober|obre|ubre|\.)?|nov(?:ember|embre|iembre|\.)?"
    r"|de[cz](?:ember|embre|iembre|\.)?|décembre|enero|febrero)"
)
_DATE = re.compile(
    r"(?<![\w.])(?:[0-9]{1,2}[./ -][0-9]{1,2}[./ -](?:[0-9]{4}|[0-9]{2})|[0-9]{4}[./-][0-9]{1,2}[./-][0-9]{1,2}"
    rf"|[0-9]{{1,2}}(?:st|nd|rd|th|\.|er)?(?: of| de)? {_MONTH},?(?: de)? [0-9]{{4}}"
    rf"|{_MONTH} [0-9]{{1,2}}(?:st|nd|rd|th)?,? [0-9]{{4}})(?![\w])",
    re.I,
)
_CONTEXT = re.compile(
    r"\bborn\b|birth|\bd\.?o\.?b\b|geboren|geburts|\bn[ée]e? le\b|naissance|\bnacid[oa]\b|nacimiento|\bnat[oa] (?:il|a)\b|nascita"
    r"|nascid[oa]|nascimento|geboortedatum|född|født|urodz",
    re.I,
)
_WORDS = ("born", "birth", "dob", "d.o", "gebor", "geburt", "né", "ne ", "naiss", "nac", "nat", "nasc", "föd", "fød", "urodz")
"""Parts of those words, in lower case: most texts have none."""


def birth(text: str) -> Iterator[Span]:
    """Dates within 40 characters after a word of birth, with no sentence's worth of words between."""
    low = text.lower()
    if not any(word in low for word in _WORDS):
        return
    for match in _DATE.finditer(text):
        if _CONTEXT.search(text, max(0, match.start() - 40), match.start()):
            yield Span(match.start(), match.end(), "birth_date", 0.85)
