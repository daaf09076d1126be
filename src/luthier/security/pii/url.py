"""Names and passwords inside addresses of the web: the part between `//` and `@`."""

from __future__ import annotations

import re
from collections.abc import Iterator

from luthier.security.pii.span import Span

_USER = re.compile(r"(?<![\w+.-])[a-z][a-z0-9+.-]{1,20}://([^\s/?#@:<>\"']{0,128}:[^\s/?#<>\"']{1,256}@)", re.I)
_HELD = re.compile(r"(?:^|:)(?:[$<{|]|\*{3}|x{3})", re.I)


def url(text: str) -> Iterator[Span]:
    """`user:password` of an address; what only holds a place (`${TOKEN}`) is not found."""
    if "://" in text:
        for match in _USER.finditer(text):
            if not _HELD.search(match.group(1)):
                yield Span(match.start(1), match.end(1) - 1, "credentials", 1.0)
