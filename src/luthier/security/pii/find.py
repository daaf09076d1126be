"""All detectors over one text: the one door through which personal data and secrets are looked for.

Enters: a text, the types wanted, the least confidence. Leaves: spans without overlap. No network, no model, no state; names of persons
need a list or a model and are passed in as spans (`names.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator

from luthier.security.pii.address import address
from luthier.security.pii.birth import birth
from luthier.security.pii.card import card
from luthier.security.pii.email import email
from luthier.security.pii.iban import iban
from luthier.security.pii.ip import ip
from luthier.security.pii.national import RULES, national
from luthier.security.pii.phone import phone
from luthier.security.pii.span import Span, fold, resolve
from luthier.security.pii.url import url
from luthier.security.secrets import secrets

FAMILIES: dict[str, tuple[str, ...]] = {
    "email": ("email",),
    "phone": ("phone",),
    "card": ("card",),
    "iban": ("iban",),
    "ip": ("ip",),
    "credentials": ("credentials",),
    "national": tuple(dict.fromkeys(rule.type for rule in RULES)),
    "birth_date": ("birth_date",),
    "address": ("address",),
    "secret": ("private_key", "jwt", "api_key", "password", "token"),
    "name": ("name",),
}
"""Families of types: a family is looked for by one detector."""
TYPES = tuple(t for types in FAMILIES.values() for t in types)

Detector = Callable[[str], Iterator[Span]]
_WITH_DIGITS: dict[str, Detector] = {
    "phone": phone, "card": card, "iban": iban, "ip": ip, "national": national, "birth_date": birth, "address": address,
}  # fmt: skip
_ANY: dict[str, Detector] = {"email": email, "credentials": url, "secret": secrets}


def find(text: str, *, types: Collection[str] = TYPES, min_score: float = 0.5, further: Iterable[Span] = ()) -> list[Span]:
    """Spans of some types, in the order of the text; `further` are candidates from elsewhere (names, another engine).

    All detectors run on what was asked for only: a number that is no card where cards are not wanted may be found as something else.
    """
    wanted = set(types)
    plain = fold(text)
    detectors = dict(_ANY)
    if any(c in plain for c in "0123456789"):
        detectors.update(_WITH_DIGITS)
    elif "ip" in wanted and "::" in plain:
        detectors["ip"] = ip
    found = [s for s in further if s.type in wanted and s.score >= min_score]
    for family, detector in detectors.items():
        if not wanted.isdisjoint(FAMILIES[family]):
            found += [s for s in detector(plain) if s.score >= min_score and s.type in wanted]
    return resolve(found, plain) if found else []
