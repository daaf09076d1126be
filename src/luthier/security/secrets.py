"""Secrets that ended up in texts: keys, tokens, passwords.

Enters: a text. Leaves: spans of the secret alone, without the name it was assigned to. Keys of known providers are told by their prefix,
anything else by being assigned to a name that promises a secret and by looking random (Shannon's entropy of its characters).
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator

from luthier.security.pii.span import Span

_BEGIN = re.compile(r"-----BEGIN (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_END = re.compile(r"-----END (?:[A-Z0-9]+ ){0,3}PRIVATE KEY(?: BLOCK)?-----")
_LONGEST = 20_000
"""Characters of a key without an end, cut off: so many are taken for it."""
_JWT = re.compile(r"(?<![\w-])eyJ[\w-]{8,4096}\.eyJ[\w-]{2,16384}\.[\w-]{0,2048}")
# Prefixes as the providers publish them for secret scanning.
_KEYS = re.compile(
    r"(?<![\w-])(?:"
    r"(?:AKIA|ASIA|ABIA|ACCA)[A-Z2-7]{16}"
    r"|gh[pousr]_[A-Za-z0-9]{36,251}|github_pat_[A-Za-z0-9_]{60,255}|gl(?:pat|dt|rt|cbt|ptt|soat)-[\w-]{20,64}"
    r"|xox[abeoprs]-[A-Za-z0-9-]{10,250}|xapp-[0-9]-[A-Za-z0-9-]{20,250}"
    r"|(?:sk|rk)_(?:live|test)_[A-Za-z0-9]{16,247}|whsec_[A-Za-z0-9+/=]{24,64}"
    r"|AIza[\w-]{35}|GOCSPX-[\w-]{28}|ya29\.[\w-]{20,512}"
    r"|sk-(?:ant-|proj-|svcacct-|admin-|or-v1-)?[A-Za-z0-9_-]{20,200}|hf_[A-Za-z0-9]{30,64}|r8_[A-Za-z0-9]{37}|gsk_[A-Za-z0-9]{48,64}|nvapi-[\w-]{60,80}"
    r"|npm_[A-Za-z0-9]{36}|pypi-AgE[\w-]{50,512}|rubygems_[0-9a-f]{48}|dckr_pat_[\w-]{27}"
    r"|SG\.[\w-]{16,32}\.[\w-]{32,64}|(?:SK|AC)[0-9a-f]{32}|key-[0-9a-f]{32}|[0-9]{8,10}:AA[\w-]{33}"
    r"|do[opr]_v1_[0-9a-f]{64}|shp(?:at|ca|pa|ss)_[0-9a-fA-F]{32}|sq0(?:atp|csp)-[\w-]{22,43}|EAAA[\w-]{60}"
    r"|dapi[0-9a-f]{32}|dp\.(?:pt|st|ct)\.[A-Za-z0-9]{40,44}|lin_api_[A-Za-z0-9]{40}|(?:ntn|secret)_[A-Za-z0-9]{43,50}|PMAK-[0-9a-f]{24}-[0-9a-f]{34}"
    r"|gl(?:sa|c)_[\w+/=-]{32,400}|hv[sb]\.[\w-]{24,200}|AGE-SECRET-KEY-1[0-9A-Z]{58}|pscale_(?:tkn|pw|oauth)_[\w.-]{32,64}|sntr[ysu]_[\w+/=-]{40,400}"
    r")(?![\w-])"
)
_HOOK = re.compile(
    r"https://hooks\.slack\.com/(?:services|workflows)/[\w/+-]{40,80}|https://discord(?:app)?\.com/api/webhooks/[0-9]{17,20}/[\w-]{60,72}"
)
_NAME = (
    r"(?:[\w-]{0,32}(?:passw(?:or)?d|passwort|passphrase|secret|api[_-]?key|access[_-]?key|private[_-]?key|auth[_-]?token|access[_-]?token|account[_-]?key"
    r"|client[_-]?secret|token(?!s|i[sz])|credential)[\w-]{0,24}|pwd|pass)"
)
_ASSIGNED = re.compile(
    rf"(?<![\w-]){_NAME}[\"'\]]{{0,2}}\s{{0,3}}(?::=|=>|[:=]|\bis\b)\s{{0,3}}(?:[\"'`]([^\"'`\s]{{6,256}})[\"'`]|([^\s\"'`,;<>(){{}}\[\]]{{6,256}}))",
    re.I,
)
_BEARER = re.compile(r"(?<!\w)(?:bearer|basic)\s{1,3}([A-Za-z0-9._~+/=-]{16,2048})", re.I)
_PLACE = re.compile(
    r"[$%<{\[]|\*{3}|x{4}|\.{3}|(?:your|example|changeme|placeholder|redacted|dummy|insert|none|null|true|false|undefined|os\.environ|getenv)",
    re.I,
)
_PROMISES = ("pass", "pwd", "secret", "key", "token", "credential")
_PASSWORD = re.compile(r"pass|pwd", re.I)


def entropy(text: str) -> float:
    """Bits a character, by the text's own frequencies."""
    return -sum(n / len(text) * math.log2(n / len(text)) for n in Counter(text).values()) if text else 0.0


def secrets(text: str) -> Iterator[Span]:
    """Spans of the types private_key, jwt, api_key, password and token."""
    if "PRIVATE KEY" in text:
        yield from _blocks(text)
    if "eyJ" in text:
        for match in _JWT.finditer(text):
            yield Span(match.start(), match.end(), "jwt", 0.98)
    for match in _KEYS.finditer(text):
        if entropy(match.group()) > 2.5:
            yield Span(match.start(), match.end(), "api_key", 0.97)
    if "https://" in text:
        for match in _HOOK.finditer(text):
            yield Span(match.start(), match.end(), "api_key", 0.97)
    low = text.lower()
    if any(word in low for word in _PROMISES):
        yield from _assigned(text)
    if "bearer" in low or "basic" in low:
        for match in _BEARER.finditer(text):
            if entropy(match.group(1)) >= 3.0 and any(c.isdigit() for c in match.group(1)):
                yield Span(match.start(1), match.end(1), "token", 0.85)


def _blocks(text: str) -> Iterator[Span]:
    begin = _BEGIN.search(text)
    while begin:
        end = _END.search(text, begin.end(), begin.end() + _LONGEST)
        stop = end.end() if end else min(len(text), begin.end() + _LONGEST)
        yield Span(begin.start(), stop, "private_key", 1.0)
        begin = _BEGIN.search(text, stop)


def _assigned(text: str) -> Iterator[Span]:
    for match in _ASSIGNED.finditer(text):
        group = 1 if match.group(1) is not None else 2
        value = match.group(group).rstrip(".")
        if len(value) < 6 or _PLACE.match(value):
            continue
        password = _PASSWORD.search(match.group()[: match.start(group) - match.start()]) is not None
        mixed = sum(
            (any(c.islower() for c in value), any(c.isupper() for c in value), any(c.isdigit() for c in value), not value.isalnum())
        )
        spoken = re.search(r"\bis\b", match.group()[: match.start(group) - match.start()], re.I) is not None
        if password and (mixed >= 3 or (mixed == 2 and not value.isalpha() and not spoken)):
            yield Span(match.start(group), match.start(group) + len(value), "password", 0.8)
        elif not password and len(value) >= 16 and any(c.isdigit() for c in value) and mixed >= 2 and entropy(value) >= 3.0:
            yield Span(match.start(group), match.start(group) + len(value), "token", 0.8)
