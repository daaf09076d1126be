"""All detectors over one text: the one door through which personal data and secrets are looked for.

Enters: a text, the types wanted, the least confidence. Leaves: spans without overlap. No network, no model, no state; names of persons
need a list or a model and are passed in as spans (`names.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator

from luthier.recipe.stages.privacy import FAMILIES, TYPES
from luthier.security.pii.address import address
from luthier.security.pii.birth import birth
from luthier.security.pii.card import card
from luthier.security.pii.email import email
from luthier.security.pii.iban import iban
from luthier.security.pii.ip import ip
from luthier.security.pii.national import national
from luthier.security.pii.phone import phone
from luthier.security.pii.span import Span, fold, resolve
from luthier.security.pii.url import url
from luthier.security.secrets import secrets

Detector = Callable[[str], Iterator[Span]]
_DIGIT = re.compile("[0-9]")
_DENSE = re.compile(r"[0-9](?:[^\n0-9]{0,3}[0-9]){5}")
"""Six digits close to each other: no number of a person has fewer."""
_MANY_DIGITS: dict[str, Detector] = {"phone": phone, "card": card, "iban": iban, "national": national}
_DIGITS: dict[str, Detector] = {"ip": ip, "birth_date": birth, "address": address}
_ANY: dict[str, Detector] = {"email": email, "credentials": url, "secret": secrets}


def find(text: str, *, types: Collection[str] = TYPES, min_score: float = 0.5, further: Iterable[Span] = ()) -> list[Span]:
    """Spans of some types, in the order of the text; `further` are candidates from elsewhere (names, another engine).

    All detectors run on what was asked for only: a number that is no card where cards are not wanted may be found as something else.
    """
    wanted = set(types)
    plain = fold(text)
    detectors = dict(_ANY)
    if _DIGIT.search(plain):
        detectors.update(_DIGITS)
        if _DENSE.search(plain):
            detectors.update(_MANY_DIGITS)
    found = [s for s in further if s.type in wanted and s.score >= min_score]
    for family, detector in detectors.items():
        if not wanted.isdisjoint(FAMILIES[family]):
            found += [s for s in detector(plain) if s.score >= min_score and s.type in wanted]
    return resolve(found, plain) if found else []
