"""The data card: its figures are the rows', its audit holds places and no values, and its measures say how sure they are."""

from __future__ import annotations

import json
import math

import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from luthier.cli.main import root
from luthier.data.ethics import Ethics, wilson
from luthier.data.lexicon import words

ROWS = """text,label,phone
"write to jo@example.com, you idiot",bad,416 60 039
she was kind,good,
her card is 4111 1111 1111 1111,good,
"""


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text(ROWS, encoding="utf-8")
    return path


def card(*arguments: object):
    return CliRunner().invoke(root, ["data", "card", *map(str, arguments)])


def test_the_card_has_licence_source_and_finds_and_the_audit_their_places(file, tmp_path):
    done = card(
        file,
        "--out",
        tmp_path / "out",
        "--label",
        "label",
        "--license",
        "CC0-1.0",
        "--source",
        "https://example.org/x",
        "--name",
        "Some rows",
        "--description",
        "Three rows.",
    )
    assert done.exit_code == 0, done.output
    told = json.loads((tmp_path / "out" / "card.json").read_text())
    assert (told["license"], told["source"], told["name"], told["rows"]) == ("CC0-1.0", "https://example.org/x", "Some rows", 3)
    assert told["labels"] == {"good": 2, "bad": 1}
    finds = told["personal_data"]["finds"]
    assert {k: v for k, v in finds.items() if not k.startswith("rows whose")} == {"text: email": 1, "text: card": 1, "phone: phone": 1}
    audit = [json.loads(line) for line in (tmp_path / "out" / "audit.jsonl").read_text().splitlines()]
    assert [(a["line"], a["found"]) for a in audit] == [(2, {"text": {"email": 1}, "phone": {"phone": 1}}), (4, {"text": {"card": 1}})]
    page = (tmp_path / "out" / "README.md").read_text()
    assert 'license: "CC0-1.0"' in page
    assert "- Source: https://example.org/x" in page
    assert "Three rows." in page
    whole = page + json.dumps(told) + json.dumps(audit)
    assert not any(value in whole for value in ("jo@example.com", "416 60", "4111"))
    assert file.read_text(encoding="utf-8") == ROWS


def test_a_card_without_licence_says_that_one_is_needed(file, tmp_path):
    assert card(file, "--out", tmp_path / "out").exit_code == 0
    page = (tmp_path / "out" / "README.md").read_text()
    assert "Licence: not given: find out" in page
    assert "\nlicense:" not in page


def test_words_and_names_of_the_users_own(file, tmp_path):
    (tmp_path / "own.txt").write_text("kind\nvery odd\n")
    (tmp_path / "names.txt").write_text("Jo\n")
    assert card(file, "--out", tmp_path / "out", "--words", tmp_path / "own.txt", "--names", tmp_path / "names.txt").exit_code == 0
    told = json.loads((tmp_path / "out" / "card.json").read_text())
    assert told["ethics"]["toxic"]["own list"]["value"] == pytest.approx(1 / 3)
    assert not any(k.startswith("rows whose") for k in told["personal_data"]["finds"])


def test_nothing_is_written_where_something_is_wrong(file, tmp_path):
    done = card(file, "--out", tmp_path / "out", "--label", "labl")
    assert done.exit_code == 1
    assert "did you mean 'label'" in str(done.exception)
    assert not (tmp_path / "out").exists()
    assert "nowhere" in str(card(file, "--out", tmp_path / "out", "--names", "nowhere").exception)
    assert card(file, "--out", tmp_path).exit_code == 1
    assert "--text: no column 'txt'" in str(card(file, "--out", tmp_path / "out", "--text", "txt").exception)
    assert "without --toxicity" in card(file, "--out", tmp_path / "out", "--toxic-label", "bad").output


def test_the_columns_that_are_named_are_those_whose_words_are_counted(tmp_path):
    (tmp_path / "rows.csv").write_text("text,note\na fine day,what an idiot: a@b.example\n")
    shares = []
    for name, more in (("all", []), ("one", ["--text", "text"])):
        assert card(tmp_path / "rows.csv", "--out", tmp_path / name, *more).exit_code == 0
        told = json.loads((tmp_path / name / "card.json").read_text())
        shares.append(told["ethics"]["toxic"]["any word"]["value"])
        assert told["personal_data"]["rows"] == 1
    assert shares == [1.0, 0.0]


def test_labels_that_are_personal_are_masked_on_the_card(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("text,label\nhello,jo@example.com\n")
    assert card(path, "--out", tmp_path / "out", "--label", "label").exit_code == 0
    assert json.loads((tmp_path / "out" / "card.json").read_text())["labels"] == {"[EMAIL]": 1}


def test_a_label_that_sticks_to_a_group_is_told():
    ethics = Ethics()
    ethics.add(["she came", "he came"] * 60, ["angry", "calm"] * 60)
    ethics.add(["it rained"] * 120, ["angry", "calm"] * 60)
    assert [(x.group, x.label) for x in ethics.leans()] == [("women", "angry"), ("women", "calm"), ("men", "angry"), ("men", "calm")]
    fair = Ethics()
    fair.add(["she came", "he came"] * 60, ["angry", "angry", "calm", "calm"] * 30)
    assert fair.leans() == []
    few = Ethics()
    few.add(["she came", "it rained"] * 15, ["angry", "calm"] * 15)
    assert few.leans() == []


def test_words_are_whole_and_a_judge_is_counted():
    ethics = Ethics(judge=lambda texts: ["bad" in t for t in texts], own=words(["very odd"]))
    ethics.add(["what an idiot", "idiotypic bad", "I will kill you", "a Very  odd day", "scunthorpe is a damned-nice town"])
    assert {k: v for k, v in ethics.toxic.items() if v} == {"insult": 1, "threat": 1, "own list": 1, "any word": 3, "judged toxic": 1}


@given(st.integers(0, 500), st.integers(0, 500))
def test_wilsons_interval_holds_the_share(hits, misses):
    share = wilson(hits, hits + misses)
    if hits + misses:
        assert -1e-9 <= share.low <= share.value + 1e-9
        assert share.value - 1e-9 <= share.high <= 1 + 1e-9
    else:
        assert math.isnan(share.value)


def test_wilsons_interval_is_the_published_one():
    """Newcombe (1998), table I, method 3: 81 of 263, and 0 of 20."""
    first, second = wilson(81, 263), wilson(0, 20)
    assert (round(first.low, 4), round(first.high, 4)) == (0.2553, 0.3662)
    assert (round(second.low, 4), round(second.high, 4)) == (0.0, 0.1611)
