"""The privacy stage: what becomes of each row and why, in flat and nested columns; every other character stays."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from luthier.data.stages.privacy import NAMES_OFF, Privacy
from luthier.data.stages.stage import JSON, make
from luthier.errors import DataError, RecipeError
from luthier.recipe.stages.privacy import PrivacyOptions
from luthier.security.pii import Span

ORIGIN = [pa.field("__file", pa.string()), pa.field("__line", pa.int64()), pa.field("__row", pa.int64())]
SECRET = "a secret of many letters"


def table(rows: list[dict], **kinds: pa.DataType) -> pa.RecordBatch:
    fields = [pa.field(n, k, metadata=JSON if n == "messages" else None) for n, k in kinds.items()]
    whole = [{"__file": "f.csv", "__line": i + 2, "__row": i, **r} for i, r in enumerate(rows)]
    return pa.RecordBatch.from_pylist(whole, schema=pa.schema([*fields, *ORIGIN]))


def texts(*values: str | None) -> pa.RecordBatch:
    return table([{"text": v} for v in values], text=pa.string())


def told(batch: pa.RecordBatch, **options: object):
    return make(PrivacyOptions(**options), batch.schema)(batch)


def test_finds_are_masked_and_the_reason_holds_no_value():
    batch = texts("write to jo@example.com or bo@example.com, 4111 1111 1111 1111", "nothing here", None)
    said = told(batch)
    assert said.batch.column("text").to_pylist() == ["write to [EMAIL] or [EMAIL], [CARD]", "nothing here", None]
    assert said.changed == {0: "personal data: text: 1 card, 2 email"}
    assert not said.dropped
    assert said.counts == {"text: email": 2, "text: card": 1, NAMES_OFF: 3}
    assert said.batch.schema == batch.schema


def test_each_type_has_its_own_action(monkeypatch):
    monkeypatch.setenv("LUTHIER_PSEUDONYM_SECRET", SECRET)
    batch = texts("jo@example.com", "219-09-9998", "call +14155552671", "AB 12 34 56 C and jo@example.com")
    said = told(batch, action="report", actions={"email": "pseudonymise", "national": "drop", "uk_nino": "mask"})
    first, *_, last = said.batch.column("text").to_pylist()
    assert first.endswith("@pseudonym.invalid")
    assert last == f"[UK_NINO] and {first}"
    assert said.batch.column("text")[2].as_py() == "call +14155552671"
    assert said.dropped == {1: "personal data: text: 1 us_ssn"}
    assert said.changed.keys() == {0, 3}
    assert said.counts["text: phone"] == 1


def test_pseudonyms_hold_across_batches_and_stages_and_hang_on_the_secret(monkeypatch):
    batch = texts("jo@example.com")
    shown = []
    for secret in (SECRET, SECRET, SECRET + "!"):
        monkeypatch.setenv("OTHER", secret)
        shown.append(told(batch, action="pseudonymise", secret="OTHER").batch.column("text")[0].as_py())
    assert shown[0] == shown[1] != shown[2]


@pytest.mark.parametrize("secret", [None, "short"])
def test_pseudonyms_without_a_good_secret_are_refused(secret, monkeypatch):
    monkeypatch.delenv("LUTHIER_PSEUDONYM_SECRET", raising=False)
    if secret:
        monkeypatch.setenv("LUTHIER_PSEUDONYM_SECRET", secret)
    with pytest.raises(RecipeError, match="LUTHIER_PSEUDONYM_SECRET") as raised:
        told(texts("a"), actions={"email": "pseudonymise"})
    assert "short" not in str(raised.value)


def test_texts_inside_nested_columns_are_looked_at():
    messages = [{"role": "user", "content": "I am jo@example.com"}, {"role": "assistant", "content": "ok", "n": 1}]
    batch = table(
        [{"messages": json.dumps(messages), "words": ["a", "219-09-9998"], "deep": [{"phone": "416 60 039", "n": 7}], "id": 5}],
        messages=pa.string(), words=pa.list_(pa.string()), deep=pa.list_(pa.struct({"phone": pa.string(), "n": pa.int64()})), id=pa.int64(),
    )  # fmt: skip
    said = told(batch)
    [row] = said.batch.to_pylist()
    messages[0]["content"] = "I am [EMAIL]"
    assert json.loads(row["messages"]) == messages
    assert row["words"] == ["a", "[US_SSN]"]
    assert row["deep"] == [{"phone": "[PHONE]", "n": 7}]
    assert said.changed == {0: "personal data: messages: 1 email; words: 1 us_ssn; deep: 1 phone"}


def test_only_the_columns_and_types_asked_for():
    batch = table([{"a": "jo@example.com 219-09-9998", "b": "jo@example.com"}], a=pa.string(), b=pa.string())
    said = told(batch, columns=["a"], types=["email"])
    assert said.batch.to_pylist()[0]["a"] == "[EMAIL] 219-09-9998"
    assert said.batch.to_pylist()[0]["b"] == "jo@example.com"
    assert NAMES_OFF not in said.counts


def test_the_least_confidence_takes_effect():
    batch = texts("ring me: 555-1234")
    assert told(batch).changed
    assert not told(batch, min_score=0.9).changed


def test_names_are_found_with_a_list(tmp_path):
    listed = tmp_path / "names.txt"
    listed.write_text("Ada Lovelace\nZoë\n", encoding="utf-8")
    said = told(texts("Ada Lovelace wrote to Zoë"), names=str(listed))
    assert said.batch.column("text").to_pylist() == ["[NAME] wrote to [NAME]"]
    assert NAMES_OFF not in said.counts


def test_names_come_from_whatever_is_passed_in_and_all_texts_are_asked_at_once():
    asked: list[list[str]] = []

    def finder(values):
        asked.append(list(values))
        return [[Span(0, 3, "name", 0.9)] if v.startswith("Ada") else [] for v in values]

    batch = texts("Ada is in", None, "who?")
    said = Privacy(PrivacyOptions(), batch.schema, names=finder)(batch)
    assert said.batch.column("text").to_pylist() == ["[NAME] is in", None, "who?"]
    assert asked == [["Ada is in", "who?"]]


def test_what_cannot_be_is_said():
    with pytest.raises(DataError, match="no column 'txt'"):
        told(texts("a"), columns=["txt"])
    with pytest.raises(DataError, match="'n' holds no texts"):
        told(table([{"n": 1, "text": "a"}], n=pa.int64(), text=pa.string()), columns=["n"])
    with pytest.raises(DataError, match="no column of texts"):
        told(table([{"n": 1}], n=pa.int64()))
    with pytest.raises(DataError, match="neither a run's folder nor a file of names"):
        told(texts("a"), names="nowhere")
    with pytest.raises(ValidationError, match="did you mean email"):
        PrivacyOptions(types=["emial"])
    with pytest.raises(ValidationError, match="which types does not look for"):
        PrivacyOptions(types=["email"], actions={"card": "drop"})
    with pytest.raises(ValidationError, match="does not look for name"):
        PrivacyOptions(types=["email"], names="x")


PIECES = ["jo@example.com", "4111 1111 1111 1111", "219-09-9998", "86.121.97.248", "plain words", "né 🙂", "[x]", "\u2028"]


@given(st.lists(st.lists(st.sampled_from(PIECES), max_size=4).map(" / ".join), max_size=5), st.sampled_from(["mask", "drop", "report"]))
def test_rows_are_kept_or_dropped_and_nothing_else_changes(values, action):
    batch = texts(*values)
    said = told(batch, action=action)
    assert len(said.batch) == len(batch)
    for place, (old, new) in enumerate(zip(values, said.batch.column("text").to_pylist(), strict=True)):
        touched = place in said.changed or place in said.dropped
        assert touched == (action != "report" and any(p in old for p in PIECES[:4]))
        if place not in said.changed:
            assert old == new
        else:
            for piece, shown in zip(old.split(" / "), new.split(" / "), strict=True):
                assert shown == (piece if piece not in PIECES[:4] else shown)
                assert (shown in ("[EMAIL]", "[CARD]", "[US_SSN]", "[IP]")) == (piece in PIECES[:4])
