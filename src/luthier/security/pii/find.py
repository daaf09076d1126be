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
_DENSE = re.compile(r"[0-9](?:[^\n0-9]{0,3}[0-9]){5}|[A-Z]{5}[0-9]{4}[A-Z]", re.I)
"""Six digits close to each other: no number of a person has fewer, but for India's tax number."""
_MASK = re.compile(r"\[[A-Z_]{2,20}(?::[0-9a-f]{12})?\]")
"""What stands where something was found before: no word beside anything."""
_MANY_DIGITS: dict[str, Detector] = {"phone": phone, "card": card, "iban": iban, "national": national}
_DIGITS: dict[str, Detector] = {"ip": ip, "birth_date": birth, "address": address}
_ANY: dict[str, Detector] = {"email": email, "credentials": url, "secret": secrets}


def find(text: str, *, label: str = "", types: Collection[str] = TYPES, min_score: float = 0.5, further: Iterable[Span] = ()) -> list[Span]:
    """Spans of some types, in the order of the text.

    `label` is what the text is called (its column): it counts as a word before it, so that `416 60 039` in a column `phone` is one.
    `further` are candidates from elsewhere (names, another engine). A number of a type that is not wanted may be found as another.
    """
    wanted = set(types)
    head = f"{label}: " if label else ""
    plain = fold(text)
    if "[" in plain:
        plain = _MASK.sub(lambda m: "|" * len(m.group()), plain)
    whole = head + plain
    detectors = dict(_ANY)
    if _DIGIT.search(plain):
        detectors.update(_DIGITS)
        if _DENSE.search(plain):
            detectors.update(_MANY_DIGITS)
    found = [s for s in further if s.type in wanted and s.score >= min_score]
    for family, detector in detectors.items():
        if not wanted.isdisjoint(FAMILIES[family]):
            for span in detector(whole):
                start, end = span.start - len(head), span.end - len(head)
                if span.score >= min_score and span.type in wanted and end > 0:
                    found.append(Span(max(start, 0), end, span.type, span.score))
    return resolve(found, plain) if found else []
