"""Numbers that a state gave to a person: each with its form and, where it has them, its check digits.

Where a number has no check, or one that a random number passes one time in eleven, it is found only with a word for it nearby.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from string import ascii_uppercase, digits

from luthier.security.pii import checks
from luthier.security.pii.span import Span, near


@dataclass(frozen=True)
class Rule:
    """A kind of number: its form, what must hold (of letters and digits alone, upper case), confidence alone and in company."""

    type: str
    form: str
    holds: Callable[[str], bool]
    context: str
    alone: float
    near: float = 0.95


def _always(_: str) -> bool:
    return True


def _ssn(n: str) -> bool:
    return n[:3] not in ("000", "666") and n[0] != "9" and n[3:5] != "00" and n[5:] != "0000"


def _nino(n: str) -> bool:
    return n[:2] not in ("BG", "GB", "NK", "KN", "TN", "NT", "ZZ")


def _nhs(n: str) -> bool:
    check = 11 - checks.weighted(n[:9], range(10, 1, -1)) % 11
    return check != 10 and check % 11 == int(n[9])


def _tax_id(n: str) -> bool:
    counts = sorted((n[:10].count(d) for d in "0123456789"), reverse=True)
    return n[0] != "0" and counts[0] in (2, 3) and counts[1] == 1 and checks.mod11_10(n)


def _nir(n: str) -> bool:
    body = n[:13].replace("2A", "19").replace("2B", "18")
    return body.isdigit() and (1 <= int(n[3:5]) <= 12 or int(n[3:5]) >= 20) and 97 - int(body) % 97 == int(n[13:])


def _dni(n: str) -> bool:
    number = n[:-1].replace("X", "0").replace("Y", "1").replace("Z", "2")
    return "TRWAGMYFPDXBNJZSQVHLCKE"[int(number) % 23] == n[-1]


_FIRST = (1, 0, 5, 7, 9, 13, 15, 17, 19, 21)
_ODD = dict(zip(ascii_uppercase + digits, (*_FIRST, 2, 4, 18, 20, 11, 3, 6, 8, 12, 14, 16, 10, 22, 25, 24, 23, *_FIRST), strict=True))


def _codice(n: str) -> bool:
    total = sum(_ODD[c] if i % 2 == 0 else int(c) if c.isdigit() else ord(c) - 65 for i, c in enumerate(n[:15]))
    return chr(65 + total % 26) == n[15]


def _bsn(n: str) -> bool:
    return int(n) > 0 and checks.weighted(n, (9, 8, 7, 6, 5, 4, 3, 2, -1)) % 11 == 0


def _pesel(n: str) -> bool:
    return checks.date(1900, int(n[2:4]) % 20, int(n[4:6])) and checks.weighted(n, (1, 3, 7, 9, 1, 3, 7, 9, 1, 3, 1)) % 10 == 0


def _personnummer(n: str) -> bool:
    short = n[-10:]
    day = int(short[4:6])
    return checks.date(1900, int(short[2:4]), day - 60 if day > 60 else day) and checks.luhn(short)


def _hetu(n: str) -> bool:
    return checks.date(1900, int(n[2:4]), int(n[:2])) and "0123456789ABCDEFHJKLMNPRSTUVWXY"[int(n[:6] + n[-4:-1]) % 31] == n[-1]


def _ean(n: str) -> bool:
    return checks.weighted(n, (1, 3) * 6 + (1,)) % 10 == 0


def _belgian(n: str) -> bool:
    return any(97 - int(before + n[:9]) % 97 == int(n[9:]) for before in ("", "2"))


def _nif(n: str) -> bool:
    return n[0] != "0" and (11 - checks.weighted(n[:8], range(9, 1, -1)) % 11) % 11 % 10 == int(n[8])


def _cpf(n: str) -> bool:
    def digit(body: str) -> int:
        return checks.weighted(body, range(len(body) + 1, 1, -1)) * 10 % 11 % 10

    return len(set(n)) > 1 and digit(n[:9]) == int(n[9]) and digit(n[:10]) == int(n[10])


def _tfn(n: str) -> bool:
    return int(n) > 0 and checks.weighted(n, (1, 4, 3, 7, 5, 8, 6, 9, 10)) % 11 == 0


def _chinese(n: str) -> bool:
    good = checks.date(int(n[6:10]), int(n[10:12]), int(n[12:14]))
    return good and "10X98765432"[checks.weighted(n[:17], [2**i % 11 for i in range(17, 0, -1)]) % 11] == n[17]


def _korean(n: str) -> bool:
    return checks.date(1900, int(n[2:4]), int(n[4:6]))


def _south_african(n: str) -> bool:
    return checks.date(1900, int(n[2:4]), int(n[4:6])) and checks.luhn(n)


# Forms and checks as the issuing authorities publish them; the tests hold each to a published example.
RULES = (
    Rule("us_ssn", r"[0-9]{3}-[0-9]{2}-[0-9]{4}", _ssn, r"ssn|social security", 0.8),
    Rule("us_ssn", r"[0-9]{3}[ .]?[0-9]{2}[ .]?[0-9]{4}", _ssn, r"ssn|social security", 0.1, 0.85),
    Rule("us_itin", r"9[0-9]{2}[- ]?(?:5[0-9]|6[0-5]|7[0-9]|8[0-8]|9[0-24-9])[- ]?[0-9]{4}", _always, r"itin|taxpayer", 0.3, 0.9),
    Rule("uk_nino", r"[ABCEGHJ-PRSTW-Z][ABCEGHJ-NPRSTW-Z] ?[0-9]{2} ?[0-9]{2} ?[0-9]{2} ?[A-D]",
         _nino, r"nino|national insurance|\bni\b", 0.8),
    Rule("uk_nhs", r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{4}", _nhs, r"\bnhs\b|national health|patient", 0.2),
    Rule("de_tax_id", r"[0-9]{2} ?[0-9]{3} ?[0-9]{3} ?[0-9]{3}", _tax_id, r"steuer|identifikationsnummer|\btin\b|tax|idnr", 0.65),
    Rule("fr_nir", r"[12][ .]?[0-9]{2}[ .]?[0-9]{2}[ .]?(?:[0-9]{2}|2[AB])[ .]?[0-9]{3}[ .]?[0-9]{3}[ .]?[0-9]{2}",
         _nir, r"nir\b|sécu|insee|social", 0.9),
    Rule("es_dni", r"[0-9]{8}[ -]?[A-HJ-NP-TV-Z]", _dni, r"\bdni\b|\bnif\b", 0.8),
    Rule("es_nie", r"[XYZ][ -]?[0-9]{7}[ -]?[A-HJ-NP-TV-Z]", _dni, r"\bnie\b", 0.85),
    Rule("it_codice_fiscale", r"[A-Z]{6}[0-9LMNP-V]{2}[A-EHLMPRST][0-9LMNP-V]{2}[A-Z][0-9LMNP-V]{3}[A-Z]",
         _codice, r"codice|fiscale", 0.95),
    Rule("nl_bsn", r"[0-9]{9}|[0-9]{4}\.[0-9]{2}\.[0-9]{3}", _bsn, r"\bbsn\b|burgerservice|sofinummer", 0.2),
    Rule("be_national", r"[0-9]{2}[. ]?[0-9]{2}[. ]?[0-9]{2}[- ]?[0-9]{3}[. ]?[0-9]{2}",
         _belgian, r"rijksregister|registre national|niss|insz|national", 0.55),
    Rule("pl_pesel", r"[0-9]{11}", _pesel, r"pesel", 0.4),
    Rule("se_personnummer", r"(?:19|20)?[0-9]{6}[-+][0-9]{4}", _personnummer, r"personnummer|person", 0.75),
    Rule("fi_hetu", r"[0-9]{6}[-+A-FU-Y][0-9]{3}[0-9A-FHJ-NPR-Y]", _hetu, r"hetu|henkil", 0.85),
    Rule("ch_ahv", r"756\.?[0-9]{4}\.?[0-9]{4}\.?[0-9]{2}", _ean, r"ahv|avs|sozialvers", 0.85),
    Rule("pt_nif", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", _nif, r"\bnif\b|contribuinte", 0.2),
    Rule("br_cpf", r"[0-9]{3}\.[0-9]{3}\.[0-9]{3}-[0-9]{2}", _cpf, r"cpf", 0.95),
    Rule("br_cpf", r"[0-9]{11}", _cpf, r"cpf", 0.3),
    Rule("ca_sin", r"[0-9]{3}[ -]?[0-9]{3}[ -]?[0-9]{3}", checks.luhn, r"\bsin\b|social insurance", 0.2),
    Rule("au_tfn", r"[0-9]{3} ?[0-9]{3} ?[0-9]{3}", _tfn, r"\btfn\b|tax file", 0.2),
    Rule("in_aadhaar", r"[2-9][0-9]{3}[ -]?[0-9]{4}[ -]?[0-9]{4}", checks.verhoeff, r"aadhaa?r|uidai", 0.45),
    Rule("in_pan", r"[A-Z]{3}[ABCFGHJLPT][A-Z][0-9]{4}[A-Z]", _always, r"\bpan\b|income tax", 0.55),
    Rule("cn_id", r"[1-9][0-9]{16}[0-9X]", _chinese, r"身份证|\bid\b", 0.95),
    Rule("kr_rrn", r"[0-9]{6}-[1-8][0-9]{6}", _korean, r"주민|resident", 0.75),
    Rule("za_id", r"[0-9]{13}", _south_african, r"\bid\b|identity", 0.55),
    # No checks, many forms: what stands after the words.
    Rule("passport", r"[A-Z]{0,3}[0-9]{6,9}[A-Z]?", _always, r"passport|reisepass|passeport|pasaporte|passaporto", 0.0, 0.8),
    Rule("driver_license", r"[A-Z]{0,2}[0-9][0-9-]{4,16}[0-9]|[A-Z][0-9A-Z]{6,18}",
         _always, r"driv(?:er|ing)[’'s]{0,2} licen[cs]e|führerschein|permis de conduire", 0.0, 0.85),
)  # fmt: skip
_TRIED = tuple(
    (rule, re.compile(rf"(?<![\w.+/-])(?:{rule.form})(?![\w/]|[-.][0-9])", re.I), re.compile(rule.context, re.I)) for rule in RULES
)


def national(text: str) -> Iterator[Span]:
    """Numbers whose check digits hold."""
    for rule, form, context in _TRIED:
        if rule.alone == 0 and context.search(text) is None:
            continue
        for match in form.finditer(text):
            bare = re.sub(r"[^0-9A-Za-z+]" if rule.type != "fi_hetu" else r" ", "", match.group()).upper()
            if not any(c.isdigit() for c in bare) or not rule.holds(bare.replace("+", "") if rule.type != "fi_hetu" else bare):
                continue
            score = rule.near if near(context, text, match.start(), match.end(), before=48, after=16) else rule.alone
            if score > 0:
                yield Span(match.start(), match.end(), rule.type, score)
