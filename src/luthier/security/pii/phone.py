"""Telephone numbers: international ones by country code, national ones by their grouping and the words beside them.

Grouping alone says little (`416 60 039` may be anything), so that national numbers in rare groupings are found only in company: `call`,
`mobile:`, `... fax`. Numbers in one run of digits are found only there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.security.pii.checks import date
from luthier.security.pii.span import Span, near

_NUMBER = (
    r"(?<![\w+.@#$€£=*<])(?:\+[ ]?)?(?:\(\+?[0-9]{1,5}\)[0-9]*+|[0-9]++)"
    r"(?:(?:[ ]?\([0-9]{1,5}\)[ .-]?|[./-]|[ ])[0-9]++)*+"
)
_MORE = r"(?:[ ,]{0,2}(?:x|ext\.?|extension|poste|durchwahl)[ .:]{0,2}[0-9]{1,6}(?!\w))?"
_RUN = re.compile(rf"{_NUMBER}(?:x[0-9]{{1,6}}(?!\w)|(?![\w%€£$=*]|[ ]?[=*/]|[-./][0-9]){_MORE})", re.I)
_EXTENSION = re.compile(r"[ ,]*(?:x|ext\.?|extension|poste|durchwahl)[ .:]*[0-9]+$", re.I)
# ITU-T E.164 assigned country codes.
_COUNTRY = re.compile(
    r"1|7|2[07]|3[0-469]|4[013-9]|5[1-8]|6[0-6]|8[1246]|9[0-58]|2(?:1[1-3681]|[2-46]\d|5\d|9[0-7-9])|3(?:5\d|7\d|8[0-35-79])|42[013]"
    r"|5(?:0\d|9\d)|6(?:7\d|8\d|9[0-2])|8(?:0[08]|5\d|7[08]|8[0-38])|9(?:6\d|7\d|9[2-689])"
)
_CONTEXT = re.compile(
    r"phone|\btel\b|t[ée]l\.|telef|t[ée]l[ée]f|\bcell|mobile|\bmobil|m[óo]vil|handy|portable|\bcall|\bfax|\bdesk\b|\boffice\b|contact|whatsapp|\bsms\b"
    r"|\bdial|\bring\b|\breach\b|answering|hotline|messages? (?:to|on|at)\b|rufnummer|puhelin",
    re.I,
)
_OTHER = re.compile(
    r"(?:licen[sc]e|card|account|iban|invoice|order|ssn|security|passport|isbn|\bid|zip|postal|reference|ref\.?|\bcc)\b[^.!?\n]{0,24}$",
    re.I,
)


def phone(text: str) -> Iterator[Span]:
    """Numbers of 7 to 15 digits, with their extension."""
    for match in _RUN.finditer(text):
        whole = match.group()
        if len(whole) < 7:
            continue
        number = _EXTENSION.sub("", whole)
        groups = re.findall(r"[0-9]+", number)
        digits = "".join(groups)
        if not 7 <= len(digits) <= 15 or len(set(digits)) < 2:
            continue
        score = _shape(number, groups, digits)
        if len(whole) > len(number):
            score += 0.25
        if near(_CONTEXT, text, match.start(), match.end(), after=12):
            score += 0.35
        if _OTHER.search(text, max(0, match.start() - 48), match.start()):
            score -= 0.35
        if score > 0.2:
            yield Span(match.start(), match.end(), "phone", min(score, 0.95))


def _shape(number: str, groups: list[str], digits: str) -> float:
    """What the number's form says, before any word beside it."""
    sizes = [len(g) for g in groups]
    if number.startswith(("+", "(+")) or (digits.startswith("00") and len(digits) >= 11):
        subscriber = digits.removeprefix("00") if not number.startswith(("+", "(+")) else digits
        return 0.85 if _COUNTRY.match(subscriber) and len(subscriber) >= 8 else 0.0
    if _is_no_phone(number, groups, sizes):
        return 0.0
    if sizes in ([3, 3, 4], [1, 3, 3, 4]) and "/" not in number:
        return 0.7 if groups[-3][0] in "23456789" else 0.45
    if len(groups) == 1:
        return 0.2
    if digits[0] == "0" and 9 <= len(digits) <= 12:
        return 0.6
    if number.startswith("("):
        return 0.55
    return 0.3


def _is_no_phone(number: str, groups: list[str], sizes: list[int]) -> bool:
    """Dates, spans of years, social security numbers, decimals, fractions and sums of money."""
    if len(groups) >= 3 and sizes[0] == 4 and date(int(groups[0]), int(groups[1][:4]), int(groups[2][:4])):
        return True
    if (
        len(groups) >= 3
        and sizes[2] == 4
        and max(sizes[:2]) <= 2
        and (date(2000, int(groups[0]), int(groups[1])) or date(2000, int(groups[1]), int(groups[0])))
    ):
        return True
    if sizes == [4, 4] and all(g[:2] in ("19", "20") for g in groups):
        return True
    if sizes == [3, 2, 4] and re.fullmatch(r"[0-9]{3}-[0-9]{2}-[0-9]{4}", number):
        return True
    if "." in number and (len(groups) == 2 or re.match(r"[0-9]\.[0-9]{2,}(?:[-/][0-9]\.| )", number)):
        return True
    if "/" in number and (number.count("/") > 1 or groups[0][0] != "0"):
        return True
    grouped = 1 <= sizes[0] <= 3 and all(s == 3 for s in sizes[1:]) and len(sizes) > 2
    return grouped and "." in number and " " not in number and "-" not in number
