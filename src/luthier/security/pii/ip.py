"""Internet addresses, versions 4 and 6, that may lead to a person's line: not this machine's own."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv6Address, IPv6Network

from luthier.security.pii.span import Span, near

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
_V4 = re.compile(rf"(?<![\w.])(?:{_OCTET}\.){{3}}{_OCTET}(?![\w]|\.[0-9])")
_V6 = re.compile(r"(?<![\w:.])[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:]{1,40}+(?![\w:]|\.[0-9])")
_V6_MAPPED = re.compile(r"(?<![\w:.])::ffff:[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?![\w]|\.[0-9])", re.I)
_VERSION = re.compile(r"(?:version|release|build|firmware|\bv\.?|\bsection|§)\s{0,3}$", re.I)
_CONTEXT = re.compile(r"\bip\b|ipv[46]|address|host|client|server|adresse", re.I)
_PSEUDONYMS = IPv6Network("2001:db8::/32")


def ip(text: str) -> Iterator[Span]:
    """Addresses; loopback, unspecified, and the reserved ranges that pseudonyms are taken from are left out."""
    if "." in text:
        for match in _V4.finditer(text):
            four = IPv4Address(match.group())
            if four.is_loopback or four.is_unspecified or four.is_reserved:
                continue
            version = _VERSION.search(text, max(0, match.start() - 12), match.start())
            yield Span(match.start(), match.end(), "ip", 0.3 if version else 0.9)
    if ":" in text:
        for match in _V6.finditer(text):
            yield from _six(text, match.start(), match.end())
        for match in _V6_MAPPED.finditer(text):
            yield from _six(text, match.start(), match.end())


def _six(text: str, start: int, end: int) -> Iterator[Span]:
    value = text[start:end].rstrip(":") if not text[start:end].endswith("::") else text[start:end]
    try:
        address = IPv6Address(value)
    except AddressValueError:
        return
    if address.is_loopback or address.is_unspecified or address in _PSEUDONYMS:
        return
    # `dead::beef` is an address and also a scope in many programming languages.
    sure = value.count(":") >= 4 or "." in value or near(_CONTEXT, text, start, end)
    yield Span(start, start + len(value), "ip", 0.95 if sure else 0.55 if any(c.isdigit() for c in value) else 0.3)
