"""Postal addresses by their form: number and street, street and number, boxes, flats, codes beside a state or a word for them.

A form is not a gazetteer: towns and countries without a code beside them are not found, and streets of unusual names neither.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.security.pii.span import Span

_AFTER = (
    r"(?:street|st|avenue|ave|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|place|pl|square|sq|terrace|ter|way|circle|cir|crescent|cres|close"
    r"|highway|hwy|parkway|pkwy|trail|trl|row|mews|grove|gardens|alley|plaza|route|crossing|loop|str)"
)
_JOINED = (
    r"(?:straße|strasse|str\.|weg|gasse|platz|allee|ufer|damm|laan|straat|plein|gracht|kade|gatan|gata|vägen|väg|gränd|vej|vænget|gade|allé|veien|vegen"
    r"|gate|katu|tie|kuja|polku|utca|utcája)"
)
_APART = r"(?:straße|strasse|str\.|weg|platz|allee|utca|u\.|út|tér)"
_BEFORE = (
    r"(?:rue|avenue|boulevard|chemin|impasse|allée|quai|via|viale|piazza|corso|vicolo|calle|avenida|paseo|rúa|rua|travessa|largo|praça|ul\.|ulica"
    r"|aleja|plac|strada|λεωφόρος|οδός)"
)
_SMALL = r"(?:de|del|della|dello|dei|des|du|di|da|do|dos|das|la|le|les|l'|d'|von|van|der|den)"
_CAPITAL = r"(?-i:[^\W\d_a-z])"
_NAME = rf"(?:{_CAPITAL}[\w'’.-]{{0,30}}|[0-9]{{1,3}}(?:st|nd|rd|th)|(?-i:of|the|de|la|von|van|al))"
_FLAT = r"(?:apt|apartment|suite|ste|whg)\.? ?#?[0-9]{1,5}[A-Za-z]?\b"
_UNIT = r"(?:apt|apartment|suite|ste|unit|flat|floor|room|whg)\.? ?#?[0-9]{1,5}[A-Za-z]?\b"
_STATE = r"[A-Z]{2}\.? [0-9]{5}(?:-[0-9]{4})?\b"
_NEXT = r"(?:,[ \n]{0,2}|[ ]?\n[ \n>?,]{0,6})"
_PART = r"[^\s,;:!?0-9]{1,24}"
_LINE = rf"{_CAPITAL}{_PART}(?: {_PART}){{0,3}}"
_CODED = rf"(?:{_CAPITAL}{_PART} (?:{_PART} ){{0,2}})?[0-9]{{4,6}}\b(?=[ ]?(?:[\n.,]|\Z))"
_TAIL = (
    rf"(?:(?:{_NEXT}|[ ])(?i:{_UNIT})){{0,2}}"
    rf"(?:{_NEXT}{_LINE}(?:{_NEXT}|[ ])(?-i:{_STATE})|(?:{_NEXT}{_LINE}){{0,3}}{_NEXT}{_CODED})?"
)
_US_STATE = r"(?:A[KLRZ]|C[AOT]|D[CE]|FL|GA|HI|I[ADLN]|K[SY]|LA|M[ADEINOST]|N[CDEHJMVY]|O[HKR]|PA|RI|S[CD]|T[NX]|UT|V[AT]|W[AIVY])"
_HOUSE = r"[0-9]{1,5}[A-Za-z]?\b"
_STREET = rf"(?:{_CAPITAL}[\w'’.-]{{0,20}}[ -])?{_CAPITAL}[\w'’-]{{1,30}}{_JOINED}"
_SAID = (
    "(?:"
    + "|".join(
        f"(?<={words} )"
        for words in ("address is", "address:", "address to", "lives at", "live at", "lives in", "located at", "office is at", "sent to")
    )
    + ")"
)
_ALONE = r"(?<![\w.,$€£=*+<>/-])(?!(?:1[0-9]|20)[0-9]{2,3},)"
_JOINED_HINTS = (
    "straße strasse str. weg gasse platz allee ufer damm laan straat plein gracht kade gata väg gränd vej vænget gade allé vegen veien gate"
    " katu tie kuja polku utca"
)
_BEFORE_HINTS = (
    "rue avenue boulevard chemin impasse allée quai via viale piazza corso vicolo calle avenida paseo rúa rua travessa largo praça ul."
    " ulica aleja plac strada λεωφόρος οδός"
)
_APART_HINTS = "straße strasse str. weg platz allee utca u. út tér"
_SAID_HINTS = "address live locat office sent"
# What must stand in a text, in lower case, for a form to be in it (any of the words; nothing where empty), the form, its confidence.
_FORMS = tuple(
    (tuple(hints.split()), re.compile(form), score)
    for hints, form, score in (
        ("", rf"{_ALONE}[0-9]{{1,6}}[A-Za-z]?(?:[-/][0-9]{{1,4}})?,? (?:{_NAME} ){{1,4}}(?=[A-Z])(?i:{_AFTER})\b\.?{_TAIL}", 0.75),
        (_JOINED_HINTS, rf"(?i)(?<!\w)(?:[0-9]{{2,6}} )?{_STREET} [0-9]{{1,4}}(?: ?[a-zA-Z])?\b{_TAIL}", 0.7),
        (_BEFORE_HINTS, rf"(?i)(?<!\w)(?:[0-9]{{1,6}},? )?{_BEFORE} (?:{_SMALL} ){{0,2}}(?:{_NAME} ){{1,4}}{_HOUSE}{_TAIL}", 0.7),
        (_BEFORE_HINTS, rf"(?i){_ALONE}[0-9]{{1,5}}(?: bis| ter)?,? {_BEFORE} (?:{_SMALL} ){{0,2}}{_NAME}(?: {_NAME}){{0,2}}", 0.65),
        (
            "straße strasse str. weg platz allee utca u. út tér",
            rf"(?i)(?<!\w)(?:[0-9]{{1,6}} )?(?:{_NAME} ){{1,3}}{_APART} {_HOUSE}\.?{_TAIL}",
            0.7,
        ),
        (_SAID_HINTS, rf"(?i){_SAID}(?:[0-9]{{1,6}} )?{_CAPITAL}[\w'’.-]{{0,30}} (?:{_NAME} ){{0,3}}[0-9]{{1,5}}\b\.?{_TAIL}", 0.6),
        (
            "box postfach apartado postbus boîte b.p.",
            rf"(?i)(?<!\w)(?:P\.? ?O\.? ?Box|Postfach|Apartado|Postbus|Boîte postale|B\.P\.) [0-9]{{1,6}}\b{_TAIL}",
            0.85,
        ),
        ("box", r"(?i)(?<!\w)(?:PSC|Unit|CMR) [0-9]{1,5},? Box [0-9]{1,5}(?:\s{1,2}(?:APO|FPO|DPO) (?:AA|AE|AP) [0-9]{5}\b)?", 0.9),
        ("apo fpo dpo", r"(?i)(?<!\w)(?:APO|FPO|DPO) (?:AA|AE|AP) [0-9]{5}\b", 0.9),
        ("apt apartment suite ste whg", rf"(?i)(?<!\w){_FLAT}", 0.5),
        ("", rf"(?<!\w){_US_STATE} [0-9]{{5}}(?:-[0-9]{{4}})?\b", 0.7),
        ("", r"(?<!\w)[A-Z]{1,2}[0-9][A-Z0-9]? [0-9][ABD-HJLNP-UW-Z]{2}\b", 0.6),
    )
)
_CODE = re.compile(
    r"(?:\bzip(?: ?code)?|post(?:al)? ?code|postleitzahl|\bplz|code postal|código postal|\bcap)\b(?: is|:| ist| est| es)?[ \n]{0,4}"
    r"([A-Z0-9]{2,5}(?:[ -][A-Z0-9]{2,4})?)\b",
    re.I,
)


def address(text: str) -> Iterator[Span]:
    """Addresses, or the parts of one that have a form."""
    low = text.lower()
    for hints, form, score in _FORMS:
        if not hints or any(hint in low for hint in hints):
            for match in form.finditer(text):
                yield Span(match.start(), match.end(), "address", score)
    if any(hint in low for hint in ("zip", "post", "plz", "cap", "código")):
        for match in _CODE.finditer(text):
            if any(c.isdigit() for c in match.group(1)):
                yield Span(match.start(1), match.end(1), "address", 0.75)
