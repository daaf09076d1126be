"""Each stage: what it drops, changes and leaves alone; every field of its options takes effect; no row is lost."""

from __future__ import annotations

import json
import os
import random
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from luthier.data.clean import clean
from luthier.data.near import Texts, words_of
from luthier.data.stream import open_stream
from luthier.errors import DataError, RecipeError
from luthier.recipe import load_recipe
from luthier.registry import STAGE_OPTIONS, STAGES

DATA = Path(os.environ.get("LUTHIER_DATA", Path(__file__).parents[3] / "shared" / "data"))


def stages(*sections):
    return load_recipe({"data": {"train": "rows", "clean": list(sections)}}).recipe.data.clean


def run(folder, rows, *sections, files=None, **options):
    """(rows that stay, fates, report) after some stages."""
    place = Path(folder)
    names = []
    for name, own in (files or {"rows": rows}).items():
        path = place / f"{name}.jsonl"
        path.write_text("\n".join(json.dumps(r) for r in own) + "\n", encoding="utf-8")
        names.append(str(path))
    out = place / f"out{len(list(place.iterdir()))}"
    clean(open_stream(names), stages(*sections), out, format="jsonl", **options)
    kept = [json.loads(line) for name in names for line in (out / Path(name).name).read_text(encoding="utf-8").splitlines()]
    fates = [json.loads(line) for line in (out / "fates.jsonl").read_text(encoding="utf-8").splitlines()]
    return kept, fates, json.loads((out / "report.json").read_text(encoding="utf-8"))


def texts(found):
    return [row["text"] for row in found[0]]


def of(*values):
    return [{"text": v} for v in values]


def test_missing_cells_are_dropped_filled_or_flagged(tmp_path):
    rows = [{"text": "a", "n": 1}, {"text": " N/A ", "n": 2}, {"text": "c", "n": None}, {"text": None, "n": None}]
    kept, fates, report = run(tmp_path, rows, "missing")
    assert kept == rows[:1]
    assert [(f["line"], f["reason"]) for f in fates] == [(2, "missing: text"), (3, "missing: n"), (4, "missing: text, n")]
    assert report["rows"]["stages"]["1 missing"]["counts"] == {"missing in text": 2, "missing in n": 2}
    assert run(tmp_path, rows, {"type": "missing", "when": "all"})[0] == rows[:3]
    filled = run(tmp_path, rows, {"type": "missing", "how": "fill", "value": 0, "columns": ["n"]})[0]
    assert [r["n"] for r in filled] == [1, 2, 0, 0]
    flagged = run(tmp_path, rows, {"type": "missing", "how": "flag"})[0]
    assert [(r["text_missing"], r["n_missing"]) for r in flagged] == [(False, False), (True, False), (False, True), (True, True)]
    assert [r["text"] for r in flagged] == [r["text"] for r in rows]
    with pytest.raises(DataError, match="cannot stand in column 'n'"):
        run(tmp_path, rows, {"type": "missing", "how": "fill", "value": "none"})


def test_characters_are_repaired(tmp_path):
    found = run(tmp_path, of("schÃ¶n", "e\u0301", "a\u200bb\x07c", "plain", "👩\u200d🚀", "tab\tand\nline"), "unicode")
    assert texts(found) == ["schön", "é", "abc", "plain", "👩\u200d🚀", "tab\tand\nline"]
    assert [f["line"] for f in found[1]] == [1, 2, 3]


@pytest.mark.skipif(not (DATA / "dirty_strings").is_dir(), reason="no dirty_strings in $LUTHIER_DATA")
def test_mojibake_is_repaired_as_its_collectors_say(tmp_path):
    """Cases from the wild whose repair is one of encodings alone."""
    cases = json.loads((DATA / "dirty_strings" / "tests" / "test-cases" / "in-the-wild.json").read_text(encoding="utf-8"))
    cases = [c for c in cases if c.get("fixed-encoding", c["fixed"]) and c.get("expect", "pass") == "pass"]
    found = texts(run(tmp_path, of(*[c["original"] for c in cases]), {"type": "unicode", "form": "none", "control": "keep"}))
    right = sum(a == c.get("fixed-encoding", c["fixed"]) for a, c in zip(found, cases, strict=True))
    assert right >= 0.95 * len(cases)


def test_markup_goes_and_what_is_none_stays(tmp_path):
    cases = {
        "<p>Hello <b>you</b>&nbsp;&amp; all</p><p>Bye<br/>now</p>": "Hello you\xa0& all\nBye\nnow",
        "<script>alert('x < y')</script>text<!-- gone -->": "text",
        "I <3 you, a < b > c, <user> said": "I <3 you, a < b > c, <user> said",
        "<a href=\"x\" title='y'>link</a> and <img src=a.png>.": "link and .",
        "AT&T &unknown; R&D": "AT&T &unknown; R&D",
        "<table><tr><td>a</td><td>b</td></tr></table>": "a  b",
    }
    assert texts(run(tmp_path, of(*cases), "markup")) == list(cases.values())


def test_space_is_tidied(tmp_path):
    text = "  a \u00a0 b\t\r\nc  \n\n\n\n d "
    assert texts(run(tmp_path, of(text), "whitespace")) == ["a b\nc\n\nd"]
    assert texts(run(tmp_path, of(text), {"type": "whitespace", "lines": "join"})) == ["a b c d"]


def test_other_languages_go(tmp_path):
    rows = of("The weather is nice today and we go out for a walk.", "Das Wetter ist heute schön und wir gehen spazieren.", "ok")
    found = run(tmp_path, rows, {"type": "language", "keep": "en"})
    assert texts(found) == [rows[0]["text"], "ok"]
    assert found[1][0]["reason"].startswith("language de: ")
    assert found[2]["rows"]["stages"]["1 language"]["counts"] == {"en": 1, "de": 1, "too short to tell": 1}
    with pytest.raises(DataError, match="unknown language 'eng'"):
        run(tmp_path, rows, {"type": "language", "keep": "eng"})


def test_lengths_are_bounded_and_outliers_found(tmp_path):
    rows = of("a", "a b", "a b c", "a b c d")
    assert texts(run(tmp_path, rows, {"type": "length", "at_least": 2, "at_most": 3})) == ["a b", "a b c"]
    draw = random.Random(0)
    many = of(*["w " * draw.randint(15, 25) for _ in range(200)], "w", "w " * 900)
    kept, fates, _ = run(tmp_path, many, {"type": "length", "outliers": 4})
    assert len(kept) == 200
    assert [f["reason"] for f in fates] == ["unlike the other lengths: 1 words", "unlike the other lengths: 900 words"]


def test_lines_of_many_rows_are_boilerplate(tmp_path):
    line = "Sent from my telephone"
    rows = of(*[f"message {i}\n{line}" for i in range(20)], f"{line}\n{line}", line, "unlike\nany other")
    kept, fates, _ = run(tmp_path, rows, {"type": "boilerplate", "min_rows": 15, "share": 0.5})
    assert [r["text"] for r in kept] == [*[f"message {i}" for i in range(20)], line, "unlike\nany other"]
    assert [f["outcome"] for f in fates] == ["changed"] * 20 + ["dropped"]


def test_a_row_goes_only_where_all_its_texts_are_boilerplate(tmp_path):
    line = "Sent from my telephone"
    rows = [{"text": f"message {i}\n{line}", "other": f"one {i}\ntwo {i}", "label": "x"} for i in range(20)]
    rows += [{"text": f"{line}\n{line}", "other": "kept\ntoo", "label": "x"}, {"text": f"{line}\n{line}", "other": None, "label": "x"}]
    kept, fates, _ = run(tmp_path, rows, {"type": "boilerplate", "min_rows": 15, "share": 0.5})
    assert [(r["text"], r["other"]) for r in kept[20:]] == [("", "kept\ntoo")]
    assert [f["outcome"] for f in fates] == ["changed"] * 21 + ["dropped"]


def test_exact_duplicates_across_and_within_files(tmp_path):
    files = {"a": of("One", "two", "one "), "b": of("ONE", "three", "three")}
    assert texts(run(tmp_path, None, "duplicates", files=files)) == ["One", "two", "three"]
    assert texts(run(tmp_path, None, {"type": "duplicates", "across": False}, files=files)) == ["One", "two", "ONE", "three"]
    assert texts(run(tmp_path, None, {"type": "duplicates", "fold": False}, files=files)) == ["One", "two", "one ", "ONE", "three"]
    found = run(tmp_path, None, {"type": "duplicates", "keep": "last"}, files=files)
    assert texts(found) == ["two", "ONE", "three"]
    assert found[1][0]["reason"].endswith("b.jsonl:1")


def long_text(draw, words=30):
    return " ".join(draw.choices([f"word{i}" for i in range(3000)], k=words))


def test_near_duplicates_name_the_row_that_stays(tmp_path):
    draw = random.Random(0)
    first, other = long_text(draw), long_text(draw)
    shuffled = " ".join(reversed(first.split()))
    cut = first[: int(len(first) * 0.9)]
    rows = of(first, other, first.upper() + "!", shuffled, cut, "the same", "The same!")
    kept, fates, _ = run(tmp_path, rows, "near_duplicates")
    assert [r["text"] for r in kept] == [first, other, "the same", "The same!"]
    assert all(f["reason"].startswith("nearly the same as: ") and "rows.jsonl:1 (" in f["reason"] for f in fates)
    ordered = run(tmp_path, rows, {"type": "near_duplicates", "shingle": 3})
    assert texts(ordered) == [first, other, shuffled, "the same", "The same!"]


def test_pairs_are_those_that_comparing_all_with_all_finds():
    """Recall and precision against exact Jaccard similarity, and planted pairs of four kinds."""
    draw = random.Random(3)
    rows = [long_text(draw, draw.randint(20, 40)) for _ in range(600)]
    planted = set()
    for i in range(0, 600, 5):
        words = rows[i].split()
        a, b = draw.sample(range(len(words)), 2)
        swapped = list(words)
        swapped[a], swapped[b] = words[b], words[a]
        made = [
            rows[i].title(),
            ", ".join(words) + ".",
            " ".join(swapped),
            rows[i][: int(len(rows[i]) * 0.87)],
            " ".join([*words[:-2], "x", "y"]),
        ]
        rows.append(made[i // 5 % 5])
        if i // 5 % 5 < 4:
            planted.add((i, len(rows) - 1))
    rows += [rows[0]] * 200
    planted |= {(0, n) for n in range(len(rows) - 200, len(rows))}
    sets = [set(words_of(r)) for r in rows]
    exact = {(i, j) for j in range(len(rows)) for i in range(j) if len(sets[i] & sets[j]) >= 0.8 * len(sets[i] | sets[j])}
    near = Texts()
    near.add(rows[:300])
    near.add(rows[300:])
    pairs = near.pairs(threshold=0.8)
    found = set(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True))
    assert found <= exact | planted
    assert planted <= found
    groups = pairs.groups(len(rows))
    apart = [(i, j) for i, j in exact if groups[i] != groups[j]]
    assert len(apart) <= 0.02 * len(exact)
    assert not near.pairs(threshold=1.0).similarity.min() < 1


def test_no_texts_give_no_pairs():
    near = Texts(shingle=3)
    assert len(near.pairs(threshold=0.8)) == 0
    near.add(["", "short", "too few words for that"])
    assert len(near.pairs(threshold=0.8)) == 0


SAMPLE: list[dict[str, Any]] = [
    *[{"text": f"Row {i} speaks of <b>ships</b> \u00e9 and the sea number {i * i}, at length and twice\nSent from my telephone", "other": "x", "n": i} for i in range(24)],
    {"text": "ROW 3 speaks of <b>ships</b> \u00e9 and the sea number 9, at length and twice\nSent from my telephone", "other": "y", "n": 3},
    {"text": "row 5 speaks of ships e\u0301 and thy sea number 25, at length and once", "other": "", "n": None},
    {"text": "Das Wetter ist heute sch\u00c3\u00b6n\x07 und wir gehen spazieren. &amp;", "other": "NA", "n": 1},
    {"text": "kurz und gut", "other": "x", "n": 1}, {"text": "kurz  und gut", "other": "z", "n": 2}, {"text": "", "other": "", "n": 0},
    {"text": "w " * 300, "other": "?", "n": 0},
]  # fmt: skip
BASE: dict[str, dict[str, Any]] = {
    "language": {"keep": ["en"]}, "length": {"at_least": 4, "at_most": 200}, "boilerplate": {"share": 0.9},
    "near_duplicates": {"threshold": 0.8},
}  # fmt: skip
CASES: dict[str, dict[str, Any]] = {
    "missing": {"columns": ["n"], "how": "flag", "when": "all", "value": ("?", {"how": "fill", "columns": ["other"]}, "!"), "markers": ["x"]},
    "unicode": {"columns": ["other"], "mojibake": False, "form": "NFD", "control": "space"},
    "markup": {"columns": ["other"], "entities": False, "tags": "keep"},
    "whitespace": {"columns": ["other"], "lines": "join"},
    "language": {"columns": ["other"], "keep": ["de"], "min_probability": 1.0, "min_characters": 500},
    "length": {"columns": ["other"], "unit": "characters", "at_least": 40, "at_most": 300, "outliers": (0.5, {"unit": "characters", "at_most": 10_000}, 50.0)},
    "boilerplate": {"columns": (["other"], {"share": 0.5}, ["text"]), "share": 0.5, "min_rows": (3, {"share": 0.01}, 30), "min_characters": (100, {"share": 0.5}, 3)},
    "duplicates": {"columns": ["other"], "fold": False, "keep": "last", "across": (False, {}, True)},
    "near_duplicates": {"columns": ["other"], "threshold": 1.0, "shingle": 9, "min_words": 90, "across": (False, {}, True)},
}  # fmt: skip
FIELDS = [(s, f) for s in sorted(CASES) for f in STAGE_OPTIONS.load(s).model_fields if f != "type"]


def test_no_stage_and_no_field_is_missing():
    assert set(STAGES.names()) == set(STAGE_OPTIONS.names()) >= set(CASES)
    assert set(STAGES.names()) - set(CASES) == {"privacy", "semantic_duplicates", "irrelevant"}  # which have tests of their own
    assert [(s, f) for s, f in FIELDS if f not in CASES[s]] == []


@pytest.mark.parametrize(("stage", "field"), FIELDS)
def test_every_field_takes_effect(stage, field, tmp_path):
    given_value = CASES[stage][field]
    value, more, plain = given_value if isinstance(given_value, tuple) else (given_value, {}, None)
    base = {"type": stage, **BASE.get(stage, {}), **more}
    before = base if plain is None else {**base, field: plain}
    files = {"a": SAMPLE[:20], "b": [*SAMPLE[20:], SAMPLE[2]]}

    def fates(section):
        found = run(tmp_path, None, section, files=files)
        return found[0], [f["reason"] for f in found[1]]

    assert fates({**base, field: value}) != fates(before)


def test_options_that_cannot_be_are_refused_with_their_place():
    for sections, said in (
        ([{"type": "length"}], "data.clean.0: give at_least"),
        (["whitespace", {"type": "length", "at_lest": 3}], "did you mean data.clean.1.at_least"),
        (["whitspace"], "did you mean whitespace"),
        ([{"type": "missing", "how": "fill"}], "value go together"),
        ([{"type": "length", "at_least": 5, "at_most": 2}], "more than at_most"),
    ):
        with pytest.raises(RecipeError) as caught:
            load_recipe({"data": {"train": "x", "clean": sections}})
        assert said in str(caught.value)


def test_columns_that_are_not_there_are_named(tmp_path):
    with pytest.raises(DataError, match=r"no column 'txt'[\s\S]*did you mean 'text'"):
        run(tmp_path, of("a"), {"type": "whitespace", "columns": ["txt"]})
    with pytest.raises(DataError, match="holds no texts"):
        run(tmp_path, [{"text": "a", "n": 1}], {"type": "whitespace", "columns": ["n"]})


LINES = st.one_of(
    st.builds(lambda t, n: json.dumps({"text": t, "n": n}), st.text(max_size=60), st.none() | st.integers() | st.text(max_size=3)),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=40),
    st.sampled_from(
        [
            '{"text": "same words in this row as in that row"}',
            '{"text": "Same words in this row, as in that row!"}',
            '{"text": "\\ud800"}',
            "[1]",
            '"',
            "",
        ]
    ),
)
PIPELINE = ["unicode", "markup", "whitespace", {"type": "missing", "columns": ["text"]}, {"type": "length", "at_least": 1, "outliers": 6}, "boilerplate", "duplicates", "near_duplicates"]  # fmt: skip


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(rows=st.lists(LINES, max_size=30), as_csv=st.booleans(), chosen=st.lists(st.sampled_from(range(len(PIPELINE))), unique=True))
def test_rows_in_are_rows_kept_dropped_or_quarantined(rows, as_csv, chosen, tmp_path_factory):
    """Over random dirty files: the books close, every fate has a line of the file, and the original is untouched."""
    folder = tmp_path_factory.mktemp("books")
    path = folder / ("a.csv" if as_csv else "a.jsonl")
    content = ("text,n\n" if as_csv else '{"text": "first", "n": 1}\n') + "\n".join(rows)
    path.write_bytes(content.encode())
    try:
        done = clean(open_stream([str(path)]), stages(*(PIPELINE[i] for i in chosen)), folder / "out", format="jsonl")
    except DataError:
        assert not (folder / "out").exists()
        return
    books = done.books.summary()
    written = (folder / "out" / "a.jsonl").read_bytes().splitlines()
    fates = [json.loads(line) for line in (folder / "out" / "fates.jsonl").read_bytes().splitlines()]
    gone = {(f["file"], f["line"]) for f in fates if f["outcome"] != "changed"}
    assert books["read"] == len(written) + len(gone) == books["kept"] + books["dropped"] + books["quarantined"]
    assert len({(f["file"], f["line"]) for f in fates if f["outcome"] == "changed"} - gone) == books["changed"]
    assert all(1 <= f["line"] <= content.count("\n") + content.count("\r") + 1 and f["reason"] for f in fates)
    if not as_csv:
        assert books["read"] == sum(bool(line.strip()) for line in content.split("\n"))
    assert path.read_bytes() == content.encode()
