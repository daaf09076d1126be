"""Payment card numbers: a known issuer, its lengths, and the Luhn digit."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.security.pii.checks import luhn
from luthier.security.pii.span import Span, near

_RUN = re.compile(r"(?<![\w.+-])[0-9](?:[ -]?[0-9]){11,18}(?![\w-]|\.[0-9])")
# Issuers' ranges and lengths (ISO/IEC 7812 register, as the issuers publish them).
_ISSUER = re.compile(
    r"4(?:\d{12}|\d{15}|\d{18})"
    r"|(?:5[1-5]\d{2}|222[1-9]|22[3-9]\d|2[3-6]\d{2}|27[01]\d|2720)\d{12}"
    r"|3[47]\d{13}"
    r"|3(?:0[0-5]|09|6\d|[89]\d)\d{11,16}"
    r"|(?:2131|1800)\d{11}|35(?:2[89]|[3-8]\d)\d{12,15}"
    r"|(?:6011|64[4-9]\d|65\d{2}|62\d{2}|81\d{2})\d{12,15}"
    r"|(?:5018|5020|5038|5[68]\d{2}|57\d{2}|6304|6390|67\d{2}|0604)\d{8,15}"
    r"|220[0-4]\d{12,15}|(?:60|82|508)\d{13,14}"
)
_CONTEXT = re.compile(r"card|credit|debit|\bcc\b|visa|master|amex|maestro|karte|carte|tarjeta|cart[ãa]o|kort", re.I)


def card(text: str) -> Iterator[Span]:
    """Numbers of 12 to 19 digits, in one run or in groups."""
    for match in _RUN.finditer(text):
        digits = re.sub(r"[ -]", "", match.group())
        if len(set(digits)) < 2 or not luhn(digits):
            continue
        known = _ISSUER.fullmatch(digits) is not None
        context = near(_CONTEXT, text, match.start(), match.end(), before=60)
        if known:
            # Short Maestro numbers are one in fifty of all numbers of their length.
            yield Span(match.start(), match.end(), "card", 0.97 if context else 0.9 if len(digits) > 13 else 0.6)
        elif context:
            yield Span(match.start(), match.end(), "card", 0.6)
