"""Vectors are computed once, whatever order or company a text comes in, and are those of `similar`."""

from __future__ import annotations

import sqlite3

import numpy as np
import pytest

from luthier.data.tokens import cache_folder
from luthier.workflow.similar import Embedder
from luthier.workshop import embed as module
from luthier.workshop.embed import embed
from tests import tiny


@pytest.fixture(scope="module")
def embedder(tiny_model):
    return Embedder(tiny_model)


def test_each_text_once(embedder, tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    monkeypatch.setattr(module, "STEP", 7)
    texts = [t for t, _ in tiny.moods_rows(20)]
    first = embed(texts, model=embedder)
    assert first.computed == len(set(texts))
    np.testing.assert_allclose(first.vectors, embedder.vectors(texts), atol=1e-6)
    again = embed([*reversed(texts), "a new book", texts[0]], model=embedder)
    assert again.computed == 1
    np.testing.assert_array_equal(again.vectors[:20], first.vectors[::-1])
    np.testing.assert_array_equal(again.vectors[-1], first.vectors[0])


def test_another_model_does_not_find_them(embedder, tmp_path, monkeypatch):
    """The same weights, with another function between them."""
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    other = tiny.save("bert", tmp_path / "other", hidden_act="relu")
    ours = embed(["a film"], model=embedder)
    theirs = embed(["a film"], model=other)
    assert ours.computed == theirs.computed == 1
    assert not np.allclose(ours.vectors, theirs.vectors)


def test_a_run_is_named_by_its_folder_or_under_runs(embedder, tiny_model, tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "model").symlink_to(tiny_model)
    wanted = embedder.vectors(["a film"])
    for name in ("mine", "runs/mine", str(tmp_path / "runs" / "mine"), "runs/mine/model"):
        np.testing.assert_allclose(embed(["a film"], model=name).vectors, wanted, atol=1e-6)


def test_a_damaged_or_forbidden_cache_is_only_slower(embedder, tmp_path, monkeypatch):
    monkeypatch.setenv("LUTHIER_CACHE", str(tmp_path))
    wanted = embed(["a film", "the book"], model=embedder).vectors
    [path] = (cache_folder().parent / "vectors").glob("texts-*.db")
    path.write_bytes(b"no database" * 500)
    again = embed(["a film", "the book"], model=embedder)
    assert again.computed == 2
    np.testing.assert_array_equal(again.vectors, wanted)
    assert embed(["a film", "the book"], model=embedder).computed == 0
    monkeypatch.setattr(sqlite3, "connect", lambda *a, **k: (_ for _ in ()).throw(sqlite3.OperationalError("no")))
    assert embed(["a film"], model=embedder).computed == 1
