"""Postal addresses by their form: number and street, street and number, boxes, flats, codes beside a state or a word for them.

A form is not a gazetteer: towns and countries without a code beside them are not found, and streets of unusual names neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.security.pii.span import Span

_WORD = r"(?:[^\W\d_][\w'’.-]{0,30}|[0-9]{1,3}(?:st|nd|rd|th))"
_AFTER = (
    r"(?:street|st|avenue|ave|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|place|pl|square|sq|terrace|ter|way|circle|cir|crescent|cres|close"
    r"|highway|hwy|parkway|pkwy|trail|trl|row|mews|grove|gardens|alley|plaza|route|crossing|loop|str)"
)
_JOINED = (
    r"(?:straße|strasse|str\.|weg|gasse|platz|allee|ufer|damm|laan|straat|plein|gracht|kade|gatan|gata|vägen|väg|gränd|vej|vænget|gade|allé|veien|vegen"
    r"|gate|katu|tie|kuja|polku|utca|utcája)"
)
_BEFORE = (
    r"(?:rue|avenue|boulevard|chemin|impasse|allée|quai|via|viale|piazza|corso|vicolo|calle|avenida|paseo|rúa|rua|travessa|largo|praça|ul\.|ulica"
    r"|aleja|plac|strada|λεωφόρος|οδός)"
)
_SMALL = r"(?:de|del|della|dello|dei|des|du|di|da|do|dos|das|la|le|les|l'|d'|von|van|der|den)"
_CAPITAL = r"(?-i:[^\W\d_a-z])"
_UNIT = r"(?:(?:apt|apartment|suite|ste|unit|flat|floor|room|whg)\.?|#) ?#?[0-9]{1,5}[A-Za-z]?\b"
_STATE = r"[A-Z]{2}\.? [0-9]{5}(?:-[0-9]{4})?\b"
_TAIL = rf"(?:[,\n ]{{1,4}}(?i:{_UNIT})){{0,2}}(?:[,\n ]{{1,4}}{_CAPITAL}[\w'’. -]{{1,30}}[,\n ]{{1,4}}(?-i:{_STATE}))?"

_FORMS = (
    (re.compile(rf"(?<![\w.,-])[0-9]{{1,6}}[A-Za-z]?(?:[-/][0-9]{{1,4}})?,? (?:{_WORD} ){{1,4}}(?i:{_AFTER})\b\.?{_TAIL}"), 0.75),
    (re.compile(rf"(?<!\w)(?:[0-9]{{2,6}} )?(?:{_CAPITAL}[\w'’.-]{{0,20}}[ -])?{_CAPITAL}[\w'’-]{{1,30}}{_JOINED} [0-9]{{1,4}}(?: ?[a-zA-Z])?\b{_TAIL}", re.I), 0.7),
    (re.compile(rf"(?<!\w)(?:[0-9]{{1,6}},? )?(?:{_BEFORE}) (?:{_SMALL} ){{0,2}}(?:{_WORD} ){{1,4}}[0-9]{{1,5}}[A-Za-z]?\b{_TAIL}", re.I), 0.7),
    (re.compile(rf"(?<![\w.,-])[0-9]{{1,5}}(?: bis| ter)?,? {_BEFORE} (?:{_SMALL} ){{0,2}}{_WORD}(?: {_WORD}){{0,2}}", re.I), 0.65),
    (re.compile(rf"(?<!\w)(?:P\.? ?O\.? ?Box|Postfach|Apartado|Postbus|Boîte postale|B\.P\.) [0-9]{{1,6}}\b{_TAIL}", re.I), 0.85),
    (re.compile(r"(?<!\w)(?:PSC|Unit|CMR) [0-9]{1,5},? Box [0-9]{1,5}(?:\s{1,2}(?:APO|FPO|DPO) (?:AA|AE|AP) [0-9]{5}\b)?", re.I), 0.9),
    (re.compile(r"(?<!\w)(?:APO|FPO|DPO) (?:AA|AE|AP) [0-9]{5}\b", re.I), 0.9),
    (re.compile(rf"(?<!\w){_UNIT}", re.I), 0.5),
    (re.compile(rf"(?<!\w)(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]|W[AIVY]) [0-9]{{5}}(?:-[0-9]{{4}})?\b"), 0.7),
    (re.compile(r"(?<!\w)[A-Z]{1,2}[0-9][A-Z0-9]? [0-9][ABD-HJLNP-UW-Z]{2}\b"), 0.6),
)  # fmt: skip
_CODE = re.compile(
    r"(?:\bzip(?: ?code)?|post(?:al)? ?code|postleitzahl|\bplz|code postal|código postal|\bcap)\b(?: is|:| ist| est| es)?[ \n]{0,4}"
    r"([A-Z0-9]{2,5}(?:[ -][A-Z0-9]{2,4})?)\b",
    re.I,
)


def address(text: str) -> Iterator[Span]:
    """Addresses, or the parts of one that have a form."""
    for form, score in _FORMS:
        for match in form.finditer(text):
            yield Span(match.start(), match.end(), "address", score)
    for match in _CODE.finditer(text):
        if any(c.isdigit() for c in match.group(1)):
            yield Span(match.start(1), match.end(1), "address", 0.75)
