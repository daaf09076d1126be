"""E-mail addresses, also international ones (RFC 6531) and those spelled `name [at] host [dot] org`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.security.pii.span import Span

_LABEL = r"[^\W_](?:[\w-]{0,62}[^\W_])?"
_ADDRESS = re.compile(
    rf"(?<![\w.%+'-])[\w!#$%&*+/=?^`{{|}}~-][\w.!#$%&'*+/=?^`{{|}}~-]{{0,63}}+@(?:{_LABEL}\.){{1,8}}(?:[^\W\d_]{{2,24}}|xn--[a-z0-9-]{{2,59}})(?![\w-])",
    re.I,
)
_LITERAL = re.compile(r"(?<![\w.%+-])[\w.%+-]{1,64}@\[[0-9A-Fa-f.:]{3,45}\]")
_SPELLED = re.compile(
    r"(?<![\w.%+-])[\w.%+-]{1,64}\s?[\[({]\s?at\s?[\])}]\s?[\w-]{1,63}(?:\s?(?:\.|[\[({]\s?dot\s?[\])}])\s?[\w-]{2,63}){1,4}", re.I
)
_IN_URL = re.compile(r"://[^\s/?#:@]{0,128}:[^\s/?#]{0,256}\Z")
"""What stands before a password that an @ follows."""
RESERVED = "@pseudonym.invalid"


def email(text: str) -> Iterator[Span]:
    """Addresses; those that a pseudonym stands in for are not found again."""
    if "@" in text:
        for match in _ADDRESS.finditer(text):
            if not match.group().endswith(RESERVED) and _IN_URL.search(text, max(0, match.start() - 320), match.start()) is None:
                yield Span(match.start(), match.end(), "email", 0.99)
        for match in _LITERAL.finditer(text):
            yield Span(match.start(), match.end(), "email", 0.9)
    if "at" in text or "AT" in text:
        for match in _SPELLED.finditer(text):
            yield Span(match.start(), match.end(), "email", 0.75)
