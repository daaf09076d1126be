"""Check digits: what tells a number that was given to somebody from a number like any other.

Enters: digits (or letters and digits, upper case). Leaves: whether they hold together.
"""

from __future__ import annotations

from collections.abc import Sequence

_LUHN = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
_VERHOEFF_PRODUCT = (
    "0123456789", "1234067895", "2340178956", "3401289567", "4012395678",
    "5987604321", "6598710432", "7659821043", "8765932104", "9876543210",
)  # fmt: skip
_VERHOEFF_TURN = ("0123456789", "1576283094", "5803796142", "8916043527", "9453126870", "4286573901", "2793806415", "7046913258")


def luhn(digits: str) -> bool:
    """ISO/IEC 7812-1, annex B: payment cards and many national numbers."""
    total = sum(int(d) if i % 2 == 0 else _LUHN[int(d)] for i, d in enumerate(reversed(digits)))
    return total % 10 == 0


def mod97(account: str) -> bool:
    """ISO 13616 (IBAN): country and check digits moved to the end, letters as 10 to 35, remainder 1."""
    return int("".join(str(int(c, 36)) for c in account[4:] + account[:4])) % 97 == 1


def weighted(digits: str, weights: Sequence[int]) -> int:
    """The sum of digits times weights."""
    return sum(int(d) * w for d, w in zip(digits, weights, strict=False))


def mod11_10(digits: str) -> bool:
    """ISO 7064 MOD 11,10."""
    product = 10
    for d in digits[:-1]:
        product = ((int(d) + product) % 10 or 10) * 2 % 11
    return (11 - product) % 10 == int(digits[-1])


def verhoeff(digits: str) -> bool:
    """Verhoeff (1969), the dihedral group of order ten."""
    check = 0
    for i, d in enumerate(reversed(digits)):
        check = int(_VERHOEFF_PRODUCT[check][int(_VERHOEFF_TURN[i % 8][int(d)])])
    return check == 0


def date(year: int, month: int, day: int) -> bool:
    """Whether a year, month and day could be a date (29 February in any year)."""
    return 1800 <= year <= 2200 and 1 <= month <= 12 and 1 <= day <= (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)[month - 1]
