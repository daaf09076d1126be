"""Making further training rows: what each way changes, what is never made, and what is recorded."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from luthier.cli.data.augment import command, way_of
from luthier.data.augment.augmenter import Ask, Source, count_of, make
from luthier.data.augment.grow import HELD, REPEATED, UNCONFIRMED, grow
from luthier.data.augment.lexicon import read_lexicon, replaced
from luthier.data.rows import Row
from luthier.data.split import content_key
from luthier.errors import DataError, RecipeError
from luthier.recipe.sections import Data

POOL = [
    ("the film was really good today", "positive"), ("a lovely meal. we found it great!", "positive"), ("so happy with this room", "positive"),
    ("the screen was broken again", "negative"), ("rude staff. cold meal.", "negative"), ("it is late and awful", "negative"),
]  # fmt: skip


def pool(rows: Any = POOL) -> list[Source]:
    return [Source(t, label, Row({"text": t, "label": label}, "train.csv", i + 2)) for i, (t, label) in enumerate(rows)]


def ways(*sections: Any) -> Any:
    return Data(train=["x"], augment=list(sections)).augment


def grown(*sections: Any, rows: Any = POOL, held: Any = (), seed: int = 0, folder: Path | None = None, label: str | None = None) -> Any:
    return grow(
        pool(rows), ways(*sections), text="text", held={content_key(h) for h in held}, fault=lambda row: None,
        check=lambda run, where: lambda made: [label if label is not None else run] * len(made), seed=seed, folder=folder or Path.cwd(),
    )  # fmt: skip


def texts(found: Any) -> list[str]:
    return [m.text for m in found.made]


def test_noise_changes_letters_alone():
    found = grown({"type": "noise", "rate": 0.2, "share": 5})
    assert len(found.made) > 25
    for made in found.made:
        assert made.text != POOL[made.source][0]
        assert Counter(c for c in made.text if not c.isalpha()) == Counter(c for c in POOL[made.source][0] if not c.isalpha())
    kept = [grown({"type": "noise", "kinds": [k]}) for k in ("delete", "double", "swap", "replace")]
    lengths = [[len(m.text) - len(POOL[m.source][0]) for m in f.made] for f in kept]
    assert [{(n > 0) - (n < 0) for n in line} for line in lengths] == [{-1}, {1}, {0}, {0}]
    assert all(sorted(m.text) == sorted(POOL[m.source][0]) for m in kept[2].made)


def test_words_move_within_their_label():
    moved = grown({"type": "words", "kinds": ["swap"], "share": 3})
    assert all(sorted(m.text.split()) == sorted(POOL[m.source][0].split()) for m in moved.made)
    fewer = grown({"type": "words", "kinds": ["delete"], "rate": 0.3})
    assert all(len(m.text.split()) == len(POOL[m.source][0].split()) - count_of(0.3, len(POOL[m.source][0].split())) for m in fewer.made)
    more = grown({"type": "words", "kinds": ["insert"], "rate": 0.3, "share": 5})
    own = {label: {w for t, x in POOL if x == label for w in t.split()} for label in ("positive", "negative")}
    for made in more.made:
        assert set(made.text.split()) <= own[made.label]
        assert len(made.text.split()) > len(POOL[made.source][0].split())


def test_mixing_joins_rows_of_one_label():
    joined = grown({"type": "mixing", "separator": " | ", "share": 2})
    where = {f"train.csv:{i + 2}": row for i, row in enumerate(POOL)}
    for made in joined.made:
        first, second = (where[o] for o in made.origins)
        assert made.text == f"{first[0]} | {second[0]}"
        assert first[1] == second[1] == made.label
        assert first != second
    halves = grown({"type": "mixing", "how": "sentences", "share": 4})
    assert any(t.startswith("rude staff.") and "cold meal." not in t for t in texts(halves))
    assert halves.ways[0].left_out["neither text has two sentences"] > 0
    alone = grown("mixing", rows=[*POOL, ("what a thing", "odd")])
    assert alone.ways[0].left_out == {"no other row has its label": 1}


def test_synonyms_of_a_file_keep_case(tmp_path):
    (tmp_path / "words.txt").write_text("# mine\n\ngood, fine\tnice\nfilm, moving picture\n")
    known = read_lexicon(tmp_path / "words.txt", where="x")
    assert known == {"good": ["fine", "nice"], "film": ["moving picture"]}
    assert (
        replaced("Film! The FILM is a film-maker's.", known, rate=1.0, draw=random.Random(0))
        == "Moving picture! The MOVING PICTURE is a film-maker's."
    )
    found = grown({"type": "lexicon", "file": "words.txt"}, folder=tmp_path)
    assert found.ways[0].left_out == {"nothing to change": 5}
    (tmp_path / "words.txt").write_text("good, fine\nalone\n")
    with pytest.raises(DataError, match=r"words\.txt:2: has no synonym"):
        grown({"type": "lexicon", "file": "words.txt"}, folder=tmp_path)
    with pytest.raises(DataError, match=r"data\.augment\[0\]\.file"):
        grown({"type": "lexicon", "file": "nowhere.txt"}, folder=tmp_path)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.text(min_size=1), st.sampled_from("ab")), min_size=1, max_size=8),
    st.integers(0, 99),
    st.floats(0.1, 3),
    st.data(),
)
def test_the_books_balance_and_nothing_held_is_made(rows, seed, share, data):
    """Over any texts: made + left out = asked, no made text stands elsewhere, and the same seed makes the same."""
    sections = [{"type": t, "share": share} for t in ("noise", "words", "mixing")]
    first = grown(*sections, rows=rows, seed=seed)
    held = data.draw(st.lists(st.sampled_from(texts(first)), max_size=3)) if first.made else []
    found = grown(*sections, rows=rows, seed=seed, held=held)
    keys = [content_key(t) for t in texts(found)]
    assert not set(keys) & ({content_key(t) for t, _ in rows} | {content_key(h) for h in held})
    assert len(set(keys)) == len(keys)
    for way in found.ways:
        assert way.made + way.left_out.total() == way.asked
    assert [m.lineage() for m in grown(*sections, rows=rows, seed=seed, held=held).made] == [m.lineage() for m in found.made]
    assert {m.label for m in found.made} <= {label for _, label in rows}


def test_the_test_is_never_made():
    once = grown({"type": "noise", "share": 3})
    again = grown({"type": "noise", "share": 3}, held=[t.upper() for t in texts(once)])
    assert not again.made
    assert again.ways[0].left_out[HELD] == len(once.made)


def test_repeats_are_left_out():
    rows = [("one two", "a"), ("two one", "a")]
    found = grown({"type": "words", "kinds": ["swap"], "share": 4}, rows=rows)
    assert not found.made
    assert found.ways[0].left_out[REPEATED] > 0


def test_share_classes_and_check():
    assert grown({"type": "noise", "share": 3}).ways[0].asked == 18
    assert 0 < grown({"type": "noise", "share": 0.5}).ways[0].asked < 6
    only = grown({"type": "noise", "classes": ["negative"]})
    assert {m.label for m in only.made} == {"negative"}
    checked = grown({"type": "noise", "check": "positive"})
    assert {m.label for m in checked.made} == {"positive"}
    assert checked.ways[0].left_out[UNCONFIRMED] > 0
    with pytest.raises(DataError, match="did you mean 'negative'"):
        grown({"type": "noise", "classes": ["negativ"]})


def test_a_row_is_made_the_same_whatever_stands_around_it():
    way = {"type": "noise", "share": 2}
    apart = grown(way, rows=POOL[2:])
    together = grown(way)
    own = [m for m in together.made if m.source >= 2]
    # letters are drawn from the texts that are there, so that only the seeds are the same
    assert [m.seed for m in own] == [m.seed for m in apart.made]


def test_an_augmenter_depends_on_row_and_seed_alone():
    made = make(ways("words")[0], pool(), folder=Path.cwd(), where="x")
    asked = [Ask(i % 6, i) for i in range(12)]
    assert made(asked) == [made([a])[0] for a in asked]


def test_unknown_ways_are_refused():
    with pytest.raises(Exception, match="did you mean noise"):
        ways("nois")
    with pytest.raises(RecipeError, match="--way 2: unknown way to augment"):
        way_of("shout", 1)
    with pytest.raises(RecipeError, match="rate"):
        way_of("{type: noise, rate: 7}", 0)
    with pytest.raises(RecipeError, match="either a model or an endpoint"):
        way_of("paraphrase", 0)


def test_the_command(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    train = tmp_path / "train.csv"
    train.write_text("text,label\n" + "".join(f'"{t}",{label}\n' for t, label in [*POOL, ("", "odd")]))
    before = train.read_bytes()
    (tmp_path / "test.csv").write_text(f'text,label\n"{POOL[0][0]}",positive\n')
    arguments = [
        "train.csv",
        "--out",
        "out",
        "--way",
        "noise",
        "--way",
        "{type: mixing, share: 2}",
        "--label",
        "label",
        "--never",
        "test.csv",
    ]
    result = CliRunner().invoke(command, arguments, catch_exceptions=False)
    assert result.exit_code == 0
    rows = [json.loads(line) for line in (tmp_path / "out" / "rows.jsonl").read_text().splitlines()]
    made = [json.loads(line) for line in (tmp_path / "out" / "made.jsonl").read_text().splitlines()]
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert train.read_bytes() == before
    assert rows[:7] == [{"text": t, "label": label} for t, label in [*POOL, ("", "odd")]]
    assert [r["text"] for r in rows[7:]] == [m["text"] for m in made]
    assert len(made) == report["made"] > 10
    assert report["not_varied"] == {"stands in a file of --never": 1, "has no text": 1}
    assert not any("train.csv:2" in m["made_from"] for m in made)
    assert {m["method"] for m in made} == {"noise", "mixing"}
    assert "varied" in result.output
    refused = CliRunner().invoke(command, ["train.csv", "--out", "b", "--way", "mixing"])
    assert isinstance(refused.exception, DataError)
    assert not (tmp_path / "b").exists()
    refused = CliRunner().invoke(command, ["train.csv", "--out", "b", "--way", "noise", "--never", "train.csv"])
    assert "6 of 7 rows: stands in a file of --never" in str(refused.exception)
    second = ["--way", "noise", "--way", "{type: noise, classes: [nothing]}", "--label", "label"]
    refused = CliRunner().invoke(command, ["train.csv", "--out", "b", *second])
    assert str(refused.exception).startswith("--way 2.classes: no training row has the label 'nothing'")
    assert not (tmp_path / "b").exists()


def test_the_schema_reads_what_it_writes():
    section = ways({"type": "paraphrase", "endpoint": {"url": "http://127.0.0.1:1/v1", "model": "m"}})[0]
    data = Data(train=["x"], augment=[section])
    assert TypeAdapter(Data).validate_python(data.model_dump()) == data
