"""Which rows come when: every row accounted for, shares as asked, and nothing but (seed, epoch) decides."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from luthier.errors import RecipeError
from luthier.recipe.curriculum import Curriculum
from luthier.training.curriculum import apportion, course

STREAMS = ["a"] * 60 + ["b"] * 30 + ["c"] * 10


def of(rows: list[int]) -> Counter[str]:
    return Counter(STREAMS[r] for r in rows)


def test_single_is_every_row_once_an_epoch_in_another_order():
    made = course(Curriculum(), STREAMS, epochs=2, seed=0)
    assert sorted(made.rows(0)) == sorted(made.rows(1)) == list(range(100))
    assert made.rows(0) != made.rows(1)
    assert made.rows(1) == course(Curriculum(), STREAMS, epochs=5, seed=0).rows(1)


@pytest.mark.parametrize(
    ("mixing", "expected"),
    [("proportional", (60, 30, 10)), ("uniform", (34, 33, 33)), ("temperature", (47, 34, 19)), ({"a": 1, "b": 1, "c": 2}, (25, 25, 50))],
)
def test_a_mixture_has_its_shares(mixing, expected):
    made = course(Curriculum(type="mixture", mixing=mixing), STREAMS, epochs=3, seed=0)
    for epoch in range(3):
        found = of(made.rows(epoch))
        assert all(abs(found[n] - e) <= 1 for n, e in zip("abc", expected, strict=True)), found
        assert sum(found.values()) == 100


def test_rows_of_a_small_stream_come_equally_often():
    made = course(Curriculum(type="mixture", mixing="uniform"), STREAMS, epochs=3, seed=0)
    seen = Counter(r for e in range(3) for r in made.rows(e) if STREAMS[r] == "c")
    assert max(seen.values()) - min(seen.values()) <= 1


def test_what_is_new_after_an_earlier_run_is_what_rises():
    streams = ["new"] * 20 + ["earlier"] * 20
    rows = course(Curriculum(type="progressive"), streams, epochs=1, seed=0, learned="earlier").rows(0)
    assert [sum(r < 20 for r in rows[i : i + 10]) for i in (0, 30)] == [2, 8]


def test_a_dynamic_mixture_gives_more_to_what_has_learned_less_and_goes_on_from_its_state():
    section = Curriculum(type="mixture", mixing="dynamic")
    made = course(section, STREAMS, epochs=3, seed=0)
    first = of(made.rows(0))
    made.observe({"a": 1.0, "b": 1.0, "c": 1.0})
    made.observe({"a": 0.1, "b": 1.0, "c": 1.0})
    assert of(made.rows(1)) == first, "all as much as at first"
    later = of(made.rows(2))
    assert later["a"] < first["a"]
    assert later["c"] > first["c"]
    resumed = course(section, STREAMS, epochs=3, seed=0)
    resumed.state.update({"losses": [dict(x) for x in made.state["losses"]]})
    assert resumed.rows(2) == made.rows(2)


def test_stages_come_one_after_the_other():
    made = course(Curriculum(type="sequential", order=["c", "a", "b"]), STREAMS, epochs=2, seed=0)
    assert [set(of(made.rows(e))) for e in range(6)] == [{"c"}, {"c"}, {"a"}, {"a"}, {"b"}, {"b"}]
    assert [made.stage(e) for e in range(made.epochs)] == [0, 0, 1, 1, 2, 2]
    assert made.updates(8) == [2, 2, 8, 8, 4, 4]


@pytest.mark.parametrize("selection", ["uniform", "balanced", "recent"])
def test_replay_brings_earlier_rows_back_from_a_reservoir(selection):
    section = Curriculum(type="replay", share=0.25, reservoir=12, selection=selection)
    made = course(section, STREAMS, epochs=2, seed=0)
    assert set(of(made.rows(0))) == {"a"}
    last = [made.rows(e) for e in (4, 5)]
    for rows in last:
        found = of(rows)
        assert found["c"] == 10
        assert found["a"] + found["b"] == round(10 * 0.25 / 0.75)
    again = {r for rows in last for r in rows if STREAMS[r] != "c"}
    assert len(again) <= 12
    if selection == "recent":
        assert {STREAMS[r] for r in again} == {"b"}


@pytest.mark.parametrize("rise", ["linear", "cosine"])
def test_the_new_stream_rises(rise):
    section = Curriculum(type="progressive", new="b", start=0.1, end=0.7, rise=rise)
    made = course(section, STREAMS, epochs=4, seed=0)
    shares = [of(made.rows(e))["b"] / 100 for e in range(4)]
    assert shares == sorted(shares)
    assert abs(sum(shares) / 4 - 0.4) < 0.02
    assert shares[0] < 0.25
    assert shares[-1] > 0.55
    rows = [r for e in range(4) for r in made.rows(e) if STREAMS[r] == "b"]
    assert max(Counter(rows).values()) - min(Counter(rows).values()) <= 1


@given(st.dictionaries(st.text(min_size=1, max_size=3), st.floats(0.01, 100), min_size=1), st.integers(0, 500))
@settings(deadline=None, max_examples=60)
def test_shares_add_up(shares, count):
    found = apportion(shares, count)
    total = sum(shares.values())
    assert sum(found.values()) == count
    assert all(abs(found[n] - s / total * count) < 1 + 1e-6 for n, s in shares.items())


@pytest.mark.parametrize(
    ("section", "said"),
    [
        ({"type": "sequential", "order": ["a", "bb", "c"]}, "no stream 'bb'"),
        ({"type": "sequential", "order": ["a", "b"]}, "leaves 'c' out"),
        ({"type": "progressive", "new": "d"}, "no stream 'd'"),
        ({"type": "mixture", "mixing": {"a": 1, "b": 1}}, "leaves 'c' out"),
    ],
)
def test_streams_that_are_not_there(section, said):
    with pytest.raises(RecipeError, match=said):
        course(Curriculum(**section), STREAMS, epochs=1, seed=0)


def test_one_stream_is_no_curriculum():
    with pytest.raises(RecipeError, match="wants several streams"):
        course(Curriculum(type="mixture"), ["a"] * 5, epochs=1, seed=0)


def test_options_of_another_type_are_refused():
    with pytest.raises(ValueError, match="sequential takes no share"):
        Curriculum(type="sequential", share=0.5)
