"""Detectors of personal data: published examples of each number, their broken twins, borders in any script, and what is left alone."""

from __future__ import annotations

import itertools
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from luthier.recipe.stages.privacy import FAMILIES, TYPES
from luthier.security.pii import Span, find
from luthier.security.pii.iban import LENGTHS
from luthier.security.pii.names import from_list
from luthier.security.pii.national import RULES
from luthier.security.pii.pseudonym import mask, pseudonymiser, rewrite
from luthier.security.pii.span import fold, resolve

SURE = {
    "email": ["jo.doe+tag@mail.example.co.uk", "müller@bücher.example", "a@xn--bcher-kva.example", "jo [at] host [dot] org"],
    "phone": ["+49 (0)30 1234567", "+14155552671", "(415) 555-2671", "415-555-2671x12", "001-518-640-0854"],
    "card": ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "30569309025904", "6011000990139424"],
    "iban": ["GB82 WEST 1234 5698 7654 32", "DE89370400440532013000", "no9386011117947", "MT84MALT011000012345MTLCAST001S"],
    "ip": ["86.121.97.248", "2001:4860:4860::8888", "::ffff:93.184.216.34", "6e40:4041:c617:e898:c11:40d2:c669:2eb4"],
    "us_ssn": ["219-09-9998"],
    "uk_nino": ["AB 12 34 56 C"],
    "de_tax_id": ["86095742719", "47036892816"],
    "fr_nir": ["2 55 08 14 168 025 38"],
    "es_dni": ["12345678Z"],
    "es_nie": ["X1234567L"],
    "it_codice_fiscale": ["RSSMRA85T10A562S"],
    "be_national": ["85.07.30-033.28"],
    "se_personnummer": ["811228-9874"],
    "fi_hetu": ["131052-308T"],
    "ch_ahv": ["756.9217.0769.85"],
    "br_cpf": ["529.982.247-25"],
    "cn_id": ["11010519491231002X"],
    "za_id": ["8001015009087"],
    "address": ["10 Downing Street", "Musterstraße 12", "12 rue de la Paix", "P.O. Box 149", "PSC 0729, Box 5797\nAPO AP 96854"],
}
NAMED = {
    "uk_nhs": "NHS number 943 476 5919",
    "nl_bsn": "BSN: 111222333",
    "pl_pesel": "PESEL 44051401359",
    "pt_nif": "contribuinte 123456789",
    "ca_sin": "SIN 046 454 286",
    "au_tfn": "TFN 123 456 782",
    "in_aadhaar": "Aadhaar 2341 2341 2346",
    "in_pan": "PAN: ABCPE1234F",
    "us_itin": "ITIN 912-71-1234",
    "kr_rrn": "resident no. 900101-1234567",
    "passport": "passport number C01X00T47".replace("C01X00T47", "L0123456"),
    "driver_license": "my driver's license number is F162823540116",
    "birth_date": "she was born on 12 March 1980",
}
LEFT_ALONE = [
    "on 2024-01-02 03:04:05", "the years 2019-2020", "ISBN 978-3-16-148410-0", "pi is 3.14159265", "version 1.2.3.4", "std::vector a::b", "at 12:30:45",
    "1,234,567.89 dollars", "1 234 567 people", "won 21-14 21-19 21-17", "order 12345678901234", "call 112", "pages 100-200 of 1990", "4111 1111 1111 1112",
    "GB82 WEST 1234 5698 7654 33", "000-12-3456", "12345678A", "1250-540=710", "0.6560-0.6625", "127.0.0.1 and ::1", "@user on x", "2 more on his way", "500, Nasdaq close",
    "born in a small town, 1984 was read 12 times",
]  # fmt: skip


def found(text: str, **options: object) -> list[tuple[str, str]]:
    return [(text[s.start : s.end], s.type) for s in find(text, **options)]


@pytest.mark.parametrize(("kind", "value"), [(k, v) for k, values in SURE.items() for v in values])
def test_a_value_is_found_whole_with_no_word_beside_it(kind, value):
    assert found(f"so {value}, he said") == [(value, kind)]


@pytest.mark.parametrize(("kind", "text"), NAMED.items())
def test_what_has_no_check_is_found_by_the_word_beside_it(kind, text):
    assert [k for _, k in found(text)] == [kind]
    value = found(text)[0][0]
    assert kind not in [k for _, k in found(f"so {value}, he said")] or kind in ("in_pan", "kr_rrn")


@pytest.mark.parametrize("text", LEFT_ALONE)
def test_ordinary_numbers_and_broken_ones_are_left_alone(text):
    assert found(text) == []


def test_every_type_of_the_recipe_can_be_found():
    """The recipe's names and the detectors' are one list."""
    assert set(FAMILIES["national"]) == {r.type for r in RULES}
    shown = {*SURE, *NAMED, *FAMILIES["secret"], "credentials", "name"}
    assert shown == set(TYPES)


@pytest.mark.parametrize(
    ("kind", "value"),
    [(k, v[-1]) for k, v in SURE.items() if k in ("de_tax_id", "fr_nir", "es_dni", "es_nie", "card", "iban", "br_cpf", "cn_id")],
)
def test_one_wrong_digit_is_no_longer_one(kind, value):
    place = next(i for i in range(len(value) - 2, 0, -1) if value[i].isdigit())
    twin = value[:place] + str((int(value[place]) + 1) % 10) + value[place + 1 :]
    assert (twin, kind) not in found(twin)


@given(st.sampled_from(sorted(LENGTHS)), st.data())
def test_every_country_has_its_length(country, data):
    body = data.draw(st.text(string.digits, min_size=LENGTHS[country] - 4, max_size=LENGTHS[country] - 4))
    digits = "".join(str(int(c, 36)) for c in f"{body}{country}00")
    whole = f"{country}{98 - int(digits) % 97:02d}{body}"
    assert found(whole, types=["iban"]) == [(whole, "iban")]
    assert found(whole[:-1], types=["iban"]) == []


BLANK = st.text(st.characters(exclude_categories=("Cs", "Nd", "L", "Nl", "No", "P", "S", "M")), max_size=8)


@given(
    BLANK,
    st.sampled_from([(k, v) for k, values in SURE.items() for v in values if k in ("email", "iban", "ip", "card", "us_ssn", "es_dni")]),
    BLANK,
)
def test_borders_count_characters_in_any_surroundings(before, known, after):
    """Spaces, controls and unassigned characters of any plane before and after: what stands between the borders is the value."""
    kind, value = known
    text = f"𝔘🙂{before} {value} {after}🙂é"
    assert (value, kind) in found(text)


@given(st.text())
def test_nothing_breaks_and_spans_are_in_order_and_apart(text):
    spans = find(text, min_score=0)
    assert all(0 <= s.start < s.end <= len(text) for s in spans)
    assert all(a.end <= b.start for a, b in itertools.pairwise(spans))


@given(st.lists(st.sampled_from([v for values in SURE.values() for v in values] + LEFT_ALONE + ["né", "\u2028", "日本"]), max_size=6))
def test_masked_text_keeps_every_other_character(parts):
    text = " | ".join(parts)
    spans = find(text)
    masked = rewrite(text, spans, mask)
    place = at = 0
    for span in spans:
        kept, shown = text[place : span.start], f"[{span.type.upper()}]"
        assert masked[at : at + len(kept) + len(shown)] == kept + shown
        place, at = span.end, at + len(kept) + len(shown)
    assert masked[at:] == text[place:]
    if not any(part in LEFT_ALONE for part in parts):  # what is left alone may come nearer to a word such as "call" when masks are shorter
        assert find(masked) == []


@given(st.text())
def test_folding_keeps_the_number_of_characters(text):
    assert len(fold(text)) == len(text)


def test_digits_and_letters_of_other_scripts_are_read():
    assert found("phone ٠١٢-٣٤٥-٦٧٨٩") == [("٠١٢-٣٤٥-٦٧٨٩", "phone")]
    assert found("ＪＯＨＮ＠ｅｘａｍｐｌｅ．ｃｏｍ") == [("ＪＯＨＮ＠ｅｘａｍｐｌｅ．ｃｏｍ", "email")]
    assert found("4111\u20111111\u20111111\u20111111") == [("4111\u20111111\u20111111\u20111111", "card")]


def test_the_columns_name_is_a_word_beside_the_value():
    assert found("416 60 039") == []
    assert found("416 60 039", label="phone") == [("416 60 039", "phone")]
    assert found("078051120", label="ssn") == [("078051120", "us_ssn")]
    assert found("3/4/1990", label="date_of_birth") == [("3/4/1990", "birth_date")]


spans = st.builds(
    lambda a, n, t, s: Span(a, a + n, t, s),
    st.integers(0, 30),
    st.integers(1, 12),
    st.sampled_from("xyz"),
    st.sampled_from([0.5, 0.7, 0.9]),
)


@given(st.lists(spans, max_size=8))
def test_overlaps_are_settled_without_uncovering_a_letter(candidates):
    text = "a1 b2,c3-" * 5
    kept = resolve(candidates, text)
    covered = {i for s in kept for i in range(s.start, s.end)}
    wanted = {i for s in candidates for i in range(s.start, s.end) if text[i].isalnum()}
    assert wanted <= covered
    assert sum(s.end - s.start for s in kept) == len(covered)
    if candidates:
        best = min(candidates, key=lambda s: (-s.score, s.start - s.end, s.start, s.type))
        assert best in kept


def test_score_then_length_decides():
    text = "0123456789"
    assert resolve([Span(0, 5, "x", 0.6), Span(0, 5, "y", 0.9)], text) == [Span(0, 5, "y", 0.9)]
    assert resolve([Span(0, 5, "x", 0.6), Span(0, 7, "y", 0.6)], text) == [Span(0, 7, "y", 0.6)]
    assert resolve([Span(0, 7, "x", 0.6), Span(2, 4, "y", 0.9)], text) == [Span(0, 2, "x", 0.6), Span(2, 4, "y", 0.9), Span(4, 7, "x", 0.6)]


def test_names_of_a_list_go_together_and_small_words_are_none():
    find_names = from_list(["Ada Lovelace", "mark"])
    [spans] = find_names(["Ada K. Lovelace met Mark; mark my words, ADA"])
    text = "Ada K. Lovelace met Mark; mark my words, ADA"
    assert [text[s.start : s.end] for s in spans] == ["Ada K. Lovelace", "Mark", "ADA"]


SECRET = "0123456789abcdef0123"


@pytest.mark.parametrize(("kind", "ways"), [
    ("email", ["Jo@Example.com", "jo@example.COM"]),
    ("phone", ["+1 415 555 2671", "+1-415-555-2671", "001 (415) 555 2671"]),
    ("card", ["4111 1111 1111 1111", "4111-1111-1111-1111"]),
    ("iban", ["GB82 WEST 1234 5698 7654 32", "gb82west12345698765432"]),
    ("ip", ["2001:4860:4860::8888", "2001:4860:4860:0:0:0:0:8888"]),
    ("name", ["Ada Lovelace", "ADA  lovelace"]),
])  # fmt: skip
def test_the_same_value_has_the_same_pseudonym_however_it_is_written(kind, ways):
    replace = pseudonymiser(SECRET)
    strip = str.maketrans("", "", " -")
    shown = {replace(Span(0, len(w), kind, 1.0), w).translate(strip) for w in ways}
    assert len(shown) == 1
    assert pseudonymiser(SECRET + "x")(Span(0, 1, kind, 1.0), ways[0]).translate(strip) not in shown
    assert replace(Span(0, 1, kind, 1.0), "1" + ways[0]).translate(strip) not in shown


@pytest.mark.parametrize("value", [v for values in SURE.values() for v in values])
def test_pseudonyms_are_found_no_more(value):
    """A second pass changes nothing: they stand in ranges that are given to nobody."""
    replace = pseudonymiser(SECRET)
    text = f"so {value}, he said"
    once = rewrite(text, find(text), replace)
    assert once != text
    assert find(once) == []


def test_a_card_keeps_its_layout():
    shown = pseudonymiser(SECRET)(Span(0, 19, "card", 1.0), "4111-1111 11111111")
    assert [c for c in shown if not c.isdigit()] == ["-", " "]
    assert shown.startswith("00")
    assert len(shown) == len("4111-1111 11111111")


@pytest.mark.parametrize("text", [
    "a" * 40_000 + "1234567", "1 " * 30_000, "1-" * 30_000, "Aa " * 20_000 + "123456", "@" * 40_000 + "123456", "a." * 40_000 + "@123456", "(1" * 30_000, "::" * 30_000 + "1",
    "://a:" * 20_000 + "@", "password=" * 10_000, "A\n" * 30_000 + "123456", "-----BEGIN PRIVATE KEY-----" * 3_000, "eyJaaaaaaaaaa." * 8_000, "GB82 " * 20_000, "12 Rue " * 10_000,
])  # fmt: skip
def test_texts_made_to_be_slow_are_not(text):
    """A pattern that backtracks without bound would not end on these."""
    find(text)
