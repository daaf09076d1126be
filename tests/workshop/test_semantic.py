"""Rows that mean the same, and rows that are like no other: found by their vectors, as comparing all with all finds them."""

from __future__ import annotations

import json

import numpy as np
import pytest
from click.testing import CliRunner

from luthier.cli.main import root
from luthier.data import close
from luthier.data.close import Closeness, close_pairs
from luthier.data.leakage import Held
from luthier.errors import ModelError
from luthier.workshop.embed import embed
from tests import tiny
from tests.data.test_stages import of, run, texts

ROWS = [t for t, _ in tiny.moods_rows(30)]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))


def test_pairs_are_those_that_comparing_all_with_all_finds(monkeypatch):
    draw = np.random.default_rng(0)
    vectors = draw.normal(size=(200, 8)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors[50], vectors[7] = vectors[3], 0
    monkeypatch.setattr(close, "BLOCK_BYTES", 4 * 200 * 33)  # several blocks, the last one short
    for threshold in (0.6, 0.8, 1.0):
        found = close_pairs(vectors, threshold=threshold)
        cosines = vectors @ vectors.T
        wanted = [(i, j) for j in range(200) for i in range(j) if cosines[i, j] >= threshold - 1e-5]
        assert wanted
        assert sorted(zip(found.first.tolist(), found.second.tolist(), strict=True)) == sorted(wanted)
        assert found.second.tolist() == sorted(found.second.tolist())
    meant = Closeness(lambda asked: vectors[[int(a) for a in asked]], 0.6)
    crossing = meant.crossing([str(i) for i in range(100)], [str(i) for i in range(100, 200)])
    assert crossing == {
        i: (int(cosines[i, 100:].argmax()), pytest.approx(float(cosines[i, 100:].max()), abs=1e-6))
        for i in range(100)
        if cosines[i, 100:].max() >= 0.6
    }


def test_the_later_of_two_rows_that_mean_the_same_goes(tmp_path, tiny_model):
    vectors = embed(ROWS, model=tiny_model).vectors
    near = np.tril(vectors @ vectors.T, -1)
    threshold = float(np.quantile(near[near > 0], 0.98))
    section = {"type": "semantic_duplicates", "model": str(tiny_model), "threshold": threshold}
    kept, fates, _ = run(tmp_path, of(*ROWS, "", ""), section)
    gone: set[int] = set()
    for j, i in np.argwhere(near >= threshold - 1e-5).tolist():
        if i not in gone and j not in gone:
            gone.add(j)
    assert 0 < len(gone) < 20
    assert texts((kept,)) == [t for i, t in enumerate(ROWS) if i not in gone] + ["", ""]
    assert {f["line"] - 1 for f in fates} == gone
    assert all(f["reason"].startswith("means nearly the same as: ") for f in fates)
    files = {"a": of(ROWS[0], ROWS[1]), "b": of(ROWS[0])}
    assert len(run(tmp_path, None, {**section, "threshold": 1.0}, files=files)[1]) == 1
    assert run(tmp_path, None, {**section, "threshold": 1.0, "across": False}, files=files)[1] == []
    wider = [{"text": t, "other": "the same"} for t in ROWS[:4]]
    assert len(run(tmp_path, wider, {**section, "threshold": 1.0, "columns": ["other"]})[0]) == 1


def test_rows_that_are_like_no_other_go_and_are_ranked(tmp_path, tiny_model):
    rows = [*ROWS, "zzz ??? 0x00 ###", ""]
    vectors = embed(rows[:-1], model=tiny_model).vectors
    cosines = np.sort(vectors @ vectors.T - 2 * np.eye(31, dtype=np.float32), axis=1)[:, ::-1]
    distance = 1 - cosines[:, :5].mean(axis=1)
    spread = max(0.01, 1.4826 * float(np.median(abs(distance - np.median(distance)))))
    scores = (distance - np.median(distance)) / spread
    order = np.argsort(-scores)[:3]
    above = float(scores[order[2]] + scores[np.argsort(-scores)[3]]) / 2
    section = {"type": "irrelevant", "model": str(tiny_model), "neighbours": 5, "above": above}
    assert above > 0
    kept, fates, report = run(tmp_path, of(*rows), section)
    assert report["rows"]["stages"]["1 irrelevant"]["reasons"] == {"like no other row": 3}
    assert sorted(f["line"] - 1 for f in fates) == sorted(order.tolist())
    ranks = {f["line"] - 1: f["reason"] for f in fates}
    for rank, row in enumerate(order.tolist(), 1):
        assert f"like no other row: {rank} of 3, {scores[row]:.1f} deviations" in ranks[row]
    assert len(kept) == len(rows) - 3
    assert run(tmp_path, of(*rows), {**section, "above": 1e9})[1] == []
    assert run(tmp_path, of(*rows), {**section, "neighbours": 30})[1] != fates
    other = [{"text": t, "other": "x"} for t in rows]
    assert run(tmp_path, other, {**section, "columns": ["other"]})[1] == []
    assert len(run(tmp_path, of("", " "), section)[0]) == 2


def test_a_model_that_is_not_there_is_told_before_anything_is_written(tmp_path):
    for stage in ("semantic_duplicates", "irrelevant"):
        with pytest.raises(ModelError):
            run(tmp_path, of(*ROWS), {"type": stage, "model": str(tmp_path / "none")})
    assert not list(tmp_path.glob("out*"))


def test_a_split_keeps_what_means_the_same_on_one_side_and_finds_it_among_what_is_tested(tmp_path, tiny_model):
    vectors = embed(ROWS, model=tiny_model).vectors
    near = np.tril(vectors @ vectors.T, -1)
    threshold = round(float(np.quantile(near[near > 0], 0.97)), 4)
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in ROWS), encoding="utf-8")
    asked = ["data", "split", str(tmp_path / "rows.jsonl"), "--near", "1", "--test", "0.3", "--to", "jsonl"]

    def parts(name, *more):
        done = CliRunner().invoke(root, [*asked, "--out", str(tmp_path / name), *more])
        assert done.exit_code == 0, done.output
        found = {}
        for part in ("train", "validation", "test"):
            path = tmp_path / name / f"{part}.jsonl"
            found |= {json.loads(line)["text"]: part for line in path.read_text(encoding="utf-8").splitlines()}
        return found

    pairs = [(ROWS[i], ROWS[j]) for j, i in np.argwhere(near >= threshold).tolist() if ROWS[i] != ROWS[j]]
    plain, kept = parts("plain"), parts("kept", "--close", str(threshold), "--model", str(tiny_model))
    assert any(plain[a] != plain[b] for a, b in pairs)
    assert all(kept[a] == kept[b] for a, b in pairs)


def test_what_is_tested_leaks_in_other_words(tiny_model):
    vectors = embed(ROWS, model=tiny_model).vectors
    near = vectors[:10] @ vectors[10:].T
    threshold = float(np.quantile(near.max(axis=1), 0.5)) - 1e-4
    held, plain = Held(close=Closeness(lambda asked: embed(asked, model=tiny_model).vectors, threshold)), Held()
    for place, text in enumerate(ROWS[10:], 10):
        held.add(text, f"test:{place}")
        plain.add(text, f"test:{place}")
    told, known = held.leaks([*ROWS[:10], ""]), plain.leaks(ROWS[:10])
    assert set(told) == {i for i in range(10) if near[i].max() >= threshold} | set(known)
    assert set(told) - set(known)
    for place in set(told) - set(known):
        assert told[place] == f"means nearly the same as: test:{near[place].argmax() + 10} ({near[place].max():.2f})"
    assert {i: told[i] for i in known} == known
