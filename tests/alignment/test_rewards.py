"""What each reward says of completions."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.alignment.reading import extracted, fenced, last_grade, last_number, normalized
from luthier.errors import DependencyError, LuthierError, RecipeError, RewardError
from luthier.recipe import load_recipe
from luthier.registry import REWARD_OPTIONS, REWARDS, TASK_OPTIONS
from tests.alignment.world import options, score, totals

quick = settings(max_examples=60, deadline=None)
PLAIN = st.text("abc xyz,.!?$()", max_size=20)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("so it is 18.", "18"), ("#### 18", "18"), ("#### 18\nthat is 5 more", "18"), ("1,234,567", "1234567"), ("1,2,3", "3"),
        ("costs $1,000.50 now", "1000.50"), ("-4", "-4"), ("3-4", "4"), ("x = −7", "-7"), ("B2B", None), ("nothing", None), (".5", "0.5"),
        ("2e3", "2000"), ("7%", "7"), ("\\boxed{42}", "42"), ("1,2345", "2345"), ("12,34", "34"), ("(3)-5", "5"), ("a: -5", "-5"), ("", None),
        ("-$5", "-5"), ("a loss of −€1,200.50", "-1200.50"), ("3-$5", "5"), ("$-5", "-5"),
    ],
)  # fmt: skip
def test_numbers_are_read_as_people_write_them(text, number):
    assert last_number(text) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("8/10", "8"), ("Fluent. 8 out of 10.", "8"), ("**7.5** / 10", "7.5"), ("4/5", "5"), ("10", "10"), ("8, then 10", "10"), ("10/10", "10"),
        ("none", None), ("7/10 at first, and 9/10 at last", "9"), ("#### 6/10", "6"), ("8 Out of 10", "8"), ("8⁄10", "8"), ("7 of 10", "7"),
        ("8/10 (out of 10)", "8"), ("8/10. It has 2 faults.", "8"),
    ],
)  # fmt: skip
def test_of_a_grade_and_the_highest_one_the_grade_is_read(text, grade):
    assert last_grade(text, highest=10.0) == (None if grade is None else Decimal(grade))


@quick
@given(st.decimals(-(10**9), 10**9, places=3), PLAIN.filter(lambda t: not t.endswith((".", ",", ")")) or not t))
def test_a_number_is_found_however_it_is_written(value, before):
    for written in (f"{value}", f"{value:,}", f"{value:.3e}" if f"{Decimal(f'{value:.3e}')}" == f"{value}" else f"{value}"):
        assert last_number(f"{before} {written}") == value
        assert last_number(f"{before} {written}. That is all") == value
        assert last_number(f"7 8 9 #### {written}\n10") == value


@quick
@given(st.integers(0, 10**40), st.integers(1, 10**6))
def test_numbers_are_equal_to_the_last_digit(gold, off):
    right, wrong = totals("number", [f"it is {gold}", f"it is {gold + off}"], {"answer": str(gold)})
    assert (right, wrong) == (1.0, 0.0)


@quick
@given(st.floats(0, 10), st.floats(-20, 20), st.floats(-1e3, 1e3))
def test_tolerance_is_a_distance(tolerance, off, gold):
    row = {"answer": f"{gold:f}"}
    gold = float(row["answer"])
    value = float(f"{gold + off:f}")
    [found] = totals({"type": "number", "tolerance": tolerance}, [f"{value:f}"], row)
    if abs(abs(value - gold) - tolerance) > 1e-9:
        assert found == float(abs(value - gold) < tolerance)


@quick
@given(st.text("abc ", min_size=1), st.text("abc <>", max_size=12), st.text("abc <>", max_size=12))
def test_what_is_extracted_is_the_last_match(answer, before, after):
    import re

    pattern = re.compile(r"\[\[(.*?)\]\]")
    assert extracted(f"{before}[[old]]{before}[[{answer}]]{after}", pattern) == answer
    assert extracted(before, pattern) is None


@quick
@given(st.lists(st.text("abcdef", min_size=1, max_size=5), max_size=30), st.integers(0, 20), st.integers(0, 20), st.floats(0.5, 50))
def test_length_falls_off_evenly_outside_what_is_wanted(words, low, more, per):
    text, n = " ".join(words), len(words)
    [ranged] = totals({"type": "length", "at_least": low, "at_most": low + more, "per": per}, [text])
    off = max(low - n, n - low - more, 0)
    assert ranged == pytest.approx(max(0, 1 - off / per))
    [target] = totals({"type": "length", "target": low, "per": per}, [text])
    assert target == pytest.approx(max(0, 1 - abs(n - low) / per))
    [plain, characters] = [totals({"type": "length", "per": per, "unit": u}, [text])[0] for u in ("words", "characters")]
    assert (plain, characters) == (pytest.approx(n / per), pytest.approx(len(text) / per))


@quick
@given(st.integers(0, 12), st.integers(1, 6))
def test_matches_are_counted_up_to_the_most(times, most):
    text = "ha-".join(["x"] * (times + 1))
    section = {"type": "regex", "pattern": "ha-", "how": "count"}
    assert totals(section, [text]) == [times]
    assert totals({**section, "most": most}, [text]) == [min(times, most)]


@quick
@given(st.text())
def test_whatever_a_model_writes_gets_a_score(text):
    row = {"answer": "18", "words": ["one", "two"], "schema": {"type": "object"}}
    found = score(
        ["exact", "number", "length", "json_schema", {"type": "contains", "column": "words"}, {"type": "regex", "pattern": "a+"}],
        [text],
        row,
    )
    assert not found.faults
    assert all(part[0, 0] >= 0 for part in found.parts.values())


def test_exact():
    row = {"answer": "The  Cat."}
    texts = ["The Cat.", "the cat", "a dog", "<a>The Cat.</a>"]
    assert totals("exact", texts, row) == [1, 0, 0, 0]
    assert totals({"type": "exact", "normalize": ["space", "case", "punctuation", "articles"]}, texts, row) == [1, 1, 0, 0]
    assert totals({"type": "exact", "normalize": []}, texts, row) == [0, 0, 0, 0]
    assert totals({"type": "exact", "extract": "<a>(.*)</a>"}, texts, row) == [0, 0, 0, 1]
    assert totals({"type": "exact", "column": "several"}, ["b", "2", "c"], {"several": ["b", 2]}) == [1, 1, 0]
    assert normalized(" A  b ", ()) == " A  b "


def test_number_with_a_share_and_an_extraction():
    assert totals({"type": "number", "relative": 0.1}, ["109", "111"], {"answer": 100}) == [1, 0]
    assert totals({"type": "number", "extract": r"so (\d+)"}, ["so 5, not 6", "5"], {"answer": 5}) == [1, 0]
    assert totals("number", ["#### 72"], {"answer": "48/2 = <<48/2=24>>24 more, so 48+24\n#### 72"}) == [1]


def test_regex():
    assert totals({"type": "regex", "pattern": "b+"}, ["abb", "bb", "a"]) == [1, 1, 0]
    assert totals({"type": "regex", "pattern": "b+", "how": "full"}, ["abb", "bb", "a"]) == [0, 1, 0]
    assert totals({"type": "regex", "pattern": "^b.c", "flags": ["ignorecase", "multiline", "dotall"]}, ["a\nB\nc"]) == [1]


def test_contains():
    section = {"type": "contains", "words": ["New York", "cat"]}
    assert totals(section, ["a CAT in new\n york", "cats", "one cat"]) == [1, 0, 0.5]
    assert totals({**section, "case": True}, ["a CAT in New York"]) == [0.5]
    assert totals({"type": "contains", "column": "w", "weight": -2.0}, ["bad", "good"], {"w": "bad"}) == [-2, 0]
    assert totals({"type": "contains", "column": "w"}, ["in 1984", "in 84"], {"w": 1984}) == [1, 0]


def test_json_by_a_schema(tmp_path):
    (tmp_path / "schema.json").write_text(json.dumps({"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}))
    texts = ['{"a": 1}', 'So:\n```json\n{"a": 2}\n```\n', '{"a": "x"}', "{a: 1}", '{"a": NaN}', "null", "[" * 100_000]
    found = score({"type": "json_schema", "file": "schema.json", "parsed": 0.25}, texts, folder=tmp_path)
    assert found.total[0].tolist() == [1, 1, 0.25, 0, 0, 0.25, 0]
    assert found.parts["json_schema.parsed"][0].tolist() == [1, 1, 1, 0, 0, 1, 0]
    assert found.parts["json_schema.valid"][0].tolist() == [1, 1, 0, 0, 0, 0, 0]
    assert totals({"type": "json_schema", "file": "schema.json", "fence": False}, texts[:2], folder=tmp_path) == [1, 0]
    assert totals("json_schema", texts[:4]) == [1, 1, 1, 0]
    assert totals({"type": "json_schema", "column": "s"}, ["3", '"x"'], {"s": '{"type": "number"}'}) == [1, 0.5]


def test_a_schema_fetches_nothing(monkeypatch):
    """A row may name any address in $ref: it is a fault, and nobody is asked."""
    import socket

    asked = []
    monkeypatch.setattr(socket, "create_connection", lambda *a, **k: asked.append(a))
    row = {"s": {"$ref": "http://127.0.0.1:9/secret.json"}}
    with pytest.raises(RewardError, match="failed on 1 of 1"):
        totals({"type": "json_schema", "column": "s"}, ["{}"], row)
    assert not asked


def test_without_the_package_the_install_line_is_told(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "jsonschema", None)
    with pytest.raises(DependencyError, match=r"pip install 'luthier\[rewards\]'"):
        totals({"type": "json_schema", "column": "s"}, ["{}"], {"s": {}})


@pytest.mark.parametrize(
    ("text", "block"),
    [
        ("```python\na = 1\n```", "a = 1\n"), ("x\n```\na\n```\n```py\nb\n```\nc", "b\n"), ("```sql\nselect\n```", None), ("a = 1", None),
        ("```python\nnever closed", "never closed"),
    ],
)  # fmt: skip
def test_the_last_block_is_read(text, block):
    assert fenced(text, languages=("python", "py")) == block


def test_every_reward_has_its_options():
    assert REWARDS.names() == REWARD_OPTIONS.names()


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"type": "json_schema", "file": "gone.json"}, r"task.rewards.0.file: no file gone.json"),
        ({"type": "json_schema", "file": "bad.json"}, r"not a JSON schema"),
        ({"type": "json_schema", "file": "worse.json"}, r"not JSON"),
        ({"type": "function", "function": "no_such_module:f"}, r"task.rewards.0.function: no module"),
        ({"type": "function", "function": "json:__name__"}, r"cannot be called"),
        ({"type": "model", "run": "gone-1"}, r"task.rewards.0.run: no reward model gone-1"),
        ({"type": "http", "url": "https://x.example/s", "token_env": "NO_SUCH_TOKEN"}, r"task.rewards.0.token_env: .*NO_SUCH_TOKEN"),
    ],
)
def test_what_cannot_be_had_is_refused_before_work(section, said, tmp_path):
    (tmp_path / "bad.json").write_text('{"type": 7}')
    (tmp_path / "worse.json").write_text("{")
    with pytest.raises(LuthierError, match=said):
        totals(section, ["x"], folder=tmp_path)


@pytest.mark.parametrize(
    ("rewards", "said"),
    [
        (["lenght"], r"task.rewards.0: unknown reward 'lenght'; did you mean length\?"),
        (
            ["length", {"type": "exact", "colum": "x"}],
            r"task.rewards.1.colum: unknown key 'colum'\n  → did you mean task.rewards.1.column\?",
        ),
        (["regex"], r"task.rewards.0.pattern: is missing"),
        ([{"type": "regex", "pattern": "("}], r"task.rewards.0.pattern: '\(' is not a regular expression"),
        ([{"type": "regex", "pattern": "x", "most": 2}], r"most is for how: count"),
        (["length", "length"], r"task.rewards: two rewards are called 'length'"),
        ([{"type": "length", "weight": float("inf")}], r"task.rewards.0.weight"),
        ([{"type": "length", "name": "a.b"}], r"task.rewards.0.name"),
        ([{"type": "length", "target": 3, "at_most": 5}], r"either target"),
        ([{"type": "length", "at_least": 6, "at_most": 5}], r"at_least is more"),
        (["contains"], r"either words or the column"),
        ([{"type": "json_schema", "file": "a", "column": "b"}], r"either file or column"),
        ([{"type": "http", "url": "ftp://x"}], r"begins with http"),
        ([{"type": "http", "url": "https://me:secret@x.example/"}], r"token_env"),
        ([{"type": "http", "url": "http://x.example/", "token_env": "T"}], r"in the clear"),
        ([{"type": "http", "url": "https://x.example/", "lowest": 1}], r"lowest is for a chat endpoint"),
        ([{"type": "http", "url": "https://x.example/", "model": "m", "instruction": "{prompt}"}], r"needs \{completion\}"),
        ([{"type": "http", "url": "https://x.example/", "model": "m", "instruction": "{completion} {prompt.x}"}], r"plain column names"),
        ([{"type": "http", "url": "https://x.example/", "model": "m", "lowest": 10}], r"not below highest"),
        ([{"type": "http"}], r"task.rewards.0.url: is missing"),
        ([3], r"expected the name of a reward"),
        ([{"weight": 2}], r"says no type"),
    ],
)
def test_faults_of_a_recipe_name_the_reward(rewards, said, monkeypatch):
    monkeypatch.setitem(TASK_OPTIONS._entries, "rewarded", "tests.alignment.world:RewardedOptions")
    with pytest.raises(RecipeError, match=said):
        load_recipe({"data": "x.jsonl", "task": {"type": "rewarded", "rewards": rewards}})


def test_a_recipe_may_name_a_reward_alone(monkeypatch):
    monkeypatch.setitem(TASK_OPTIONS._entries, "rewarded", "tests.alignment.world:RewardedOptions")
    for rewards in ("length", ["length"], {"type": "length"}):
        task = load_recipe({"data": "x.jsonl", "task": {"type": "rewarded", "rewards": rewards}}).recipe.task
        assert [r["type"] for r in task.model_dump()["rewards"]] == ["length"]
        assert load_recipe(load_recipe({"data": "x.jsonl", "task": task.model_dump()}).recipe).recipe.task == task


def test_the_lists_of_rewards_in_the_documentation_are_read():
    import re
    from pathlib import Path

    import yaml

    page = (Path(__file__).parents[2] / "docs" / "rewards.md").read_text(encoding="utf-8")
    lists = re.findall(r"```yaml rewards\n(.*?)```", page, re.S)
    assert len(lists) == 4
    assert all(options(*yaml.safe_load(text)) for text in lists)
    assert {name for name in REWARD_OPTIONS.names() if f"| `{name}` |" in page} == set(REWARD_OPTIONS.names())
    for name in REWARD_OPTIONS.names():
        line = next(line for line in page.splitlines() if line.startswith(f"| `{name}` |"))
        own = set(REWARD_OPTIONS.load(name).model_fields) - {"type", "name", "weight", "max_fault_share"}
        own -= set() if name in ("unit_test", "model", "http") else {"timeout"}
        assert set(re.findall(r"`(\w+)`", line.rsplit("|", 2)[1])) == own
