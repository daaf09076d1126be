"""Stand-ins for what was found: a mask, or a pseudonym that is the same wherever the same value stands.

Enters: a text and its spans. Leaves: the text with the spans replaced and every other character kept. Pseudonyms are keyed (HMAC-SHA256,
RFC 2104): whoever lacks the secret can neither undo them nor test a guess. Who holds it can, so that the result is pseudonymised data,
not anonymous data.

Their forms keep to ranges that are given to nobody: addresses at a `.invalid` host (RFC 2606), 240.0.0.0/4 and 2001:db8::/32 (RFC 1112,
3849), telephone numbers after a country code that does not exist, cards of no issuer, accounts in no country.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv4Address, IPv6Address, ip_address

from luthier.security.pii.email import RESERVED
from luthier.security.pii.span import Span, fold

SHORTEST_SECRET = 16
"""Characters below which a secret could be guessed."""
_SEPARATORS = re.compile(r"[\W_]+")
_ACCOUNT_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"


def rewrite(text: str, spans: Sequence[Span], replace: Callable[[Span, str], str]) -> str:
    """The text with each span (in order, apart) replaced by what `replace(span, value)` gives; all else as it was."""
    pieces, place = [], 0
    for span in spans:
        pieces += [text[place : span.start], replace(span, text[span.start : span.end])]
        place = span.end
    return "".join([*pieces, text[place:]])


def mask(span: Span, value: str) -> str:
    """`[EMAIL]`: what stood there, and nothing of it."""
    return f"[{span.type.upper()}]"


def pseudonymiser(secret: str) -> Callable[[Span, str], str]:
    """A replacement that gives the same pseudonym for the same value of a type, however it is written (case, spaces, dashes)."""
    key = secret.encode()

    def replace(span: Span, value: str) -> str:
        digest = hmac.new(key, f"{span.type}\0{canonical(value, span.type)}".encode("utf-8", "surrogatepass"), hashlib.sha256).digest()
        form = _FORMS.get(span.type)
        return form(value, digest) if form else f"[{span.type.upper()}:{digest.hex()[:12]}]"

    return replace


def canonical(value: str, type: str) -> str:
    """What makes two ways of writing the same: e-mail without case, everything else as its letters and digits alone."""
    plain = fold(value).casefold()
    if type == "email":
        return plain.replace("[at]", "@").replace("[dot]", ".").replace(" ", "")
    if type == "ip":
        with suppress(ValueError):  # a part of one, beside a stronger find
            return ip_address(plain).compressed
    if type in ("private_key", "jwt", "api_key", "password", "token", "credentials"):
        return value
    if type == "phone":
        return re.sub(r"[^0-9x]", "", plain.replace("(0)", "")).removeprefix("00")
    return _SEPARATORS.sub(" " if type in ("name", "address") else "", plain).strip()


def _digits(digest: bytes, count: int) -> str:
    return str(int.from_bytes(digest[:20], "big") % 10**count).zfill(count)


def _email(value: str, digest: bytes) -> str:
    return digest.hex()[:16] + RESERVED


def _phone(value: str, digest: bytes) -> str:
    return f"+0{_digits(digest, 12)}"


def _card(value: str, digest: bytes) -> str:
    """As many digits, grouped as they were, beginning with 00: no issuer's."""
    count = sum(c.isdigit() for c in value)
    fresh = iter("00" + _digits(digest, max(count - 2, 1)))
    return "".join(next(fresh) if c.isdigit() else c for c in value)


def _ip(value: str, digest: bytes) -> str:
    number = int.from_bytes(digest[:12], "big")
    if ":" in value:
        return IPv6Address((0x20010DB8 << 96) | number).compressed
    # The last address of the range is the broadcast address.
    return str(IPv4Address(0xF0000000 | number % 0x0FFFFFFF))


def _iban(value: str, digest: bytes) -> str:
    number, letters = int.from_bytes(digest, "big"), ""
    for _ in range(18):
        number, place = divmod(number, len(_ACCOUNT_LETTERS))
        letters += _ACCOUNT_LETTERS[place]
    return f"XX00{letters}"


def _name(value: str, digest: bytes) -> str:
    return f"Person_{digest.hex()[:12]}"


_FORMS: dict[str, Callable[[str, bytes], str]] = {
    "email": _email, "phone": _phone, "card": _card, "ip": _ip, "iban": _iban, "name": _name,
}  # fmt: skip
