"""Checkpoints: what was saved comes back, and nothing that was altered does."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

import pytest
import torch

from luthier.errors import CheckpointError, SpaceError
from luthier.training import checkpoint


@pytest.fixture
def saved(tmp_path) -> Path:
    torch.manual_seed(0)
    for step in (10, 20):
        checkpoint.save(
            tmp_path, step=step, weights={"a": torch.randn(30, 20), "b": torch.randn(7)},
            optimizer={"exp_avg:a": torch.randn(30, 20), "step:a": torch.tensor(float(step))}, state={"progress": {"best": 0.5}},
        )  # fmt: skip
    return tmp_path


def test_what_was_saved_comes_back(saved):
    path, refused = checkpoint.newest(saved)
    assert path is not None
    assert path.name == "step-00000020"
    assert not refused
    found = checkpoint.load(path)
    assert found.step == 20
    assert found.state == {"progress": {"best": 0.5}}
    assert found.weights["a"].shape == (30, 20)
    assert float(found.optimizer["step:a"]) == 20.0


def _flip(path: Path, draw: random.Random) -> None:
    data = bytearray(path.read_bytes())
    place = draw.randrange(len(data))
    data[place] ^= 1 << draw.randrange(8)
    path.write_bytes(bytes(data))


def _truncate(path: Path, draw: random.Random) -> None:
    data = path.read_bytes()
    path.write_bytes(data[: draw.randrange(len(data))])


def _delete(path: Path, draw: random.Random) -> None:
    path.unlink()


def _swap(path: Path, draw: random.Random) -> None:
    """The same file of the other checkpoint in its place."""
    other = path.parent.with_name("step-00000010") / path.name
    shutil.copy(other, path)


def test_two_hundred_corrupted_checkpoints_are_all_caught(saved, tmp_path_factory):
    draw = random.Random(0)
    caught = 0
    names = [*checkpoint.FILES, checkpoint.MARKER]
    for number in range(200):
        copy = tmp_path_factory.mktemp("copy") / "c"
        shutil.copytree(saved, copy)
        damage = (_flip, _truncate, _delete, _swap)[number % 4]
        damage(copy / "step-00000020" / draw.choice(names), draw)
        path, refused = checkpoint.newest(copy)
        changed = any(
            not (copy / "step-00000020" / n).exists()
            or (copy / "step-00000020" / n).read_bytes() != (saved / "step-00000020" / n).read_bytes()
            for n in names
        )
        assert changed, "the damage did nothing"
        assert path == copy / "step-00000010"
        with pytest.raises(CheckpointError):
            checkpoint.load(copy / "step-00000020")
        caught += "step-00000020" in refused
        shutil.rmtree(copy)
    assert caught == 200


def test_swapped_whole_folders_are_caught(saved):
    shutil.rmtree(saved / "step-00000020")
    shutil.copytree(saved / "step-00000010", saved / "step-00000020")
    path, refused = checkpoint.newest(saved)
    assert path == saved / "step-00000010"
    assert "step 10" in refused["step-00000020"]


def test_a_failed_write_leaves_the_earlier_one(saved, monkeypatch):
    fired = []

    def full(*args, **kwargs):
        fired.append(1)
        raise RuntimeError("[enforce fail at inline_container.cc:668] . unexpected pos 64 vs 0")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(SpaceError, match="free some space"):
        checkpoint.save(saved, step=30, weights={"a": torch.ones(2)}, optimizer={}, state={})
    assert fired
    assert sorted(p.name for p in saved.iterdir()) == ["step-00000010", "step-00000020"]


def test_too_little_disk_is_said_before_writing(saved, monkeypatch):
    import collections

    usage = collections.namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(100, 100, 1000))
    with pytest.raises(SpaceError, match="MiB are free"):
        checkpoint.save(saved, step=30, weights={"a": torch.ones(2)}, optimizer={}, state={})


def test_pruning_keeps_the_newest_and_the_best(saved):
    checkpoint.save(saved, step=30, weights={"a": torch.ones(2)}, optimizer={}, state={})
    (saved / ".step-00000031.part").mkdir()
    checkpoint.prune(saved, keep=1, spare={"step-00000010"})
    assert sorted(p.name for p in saved.iterdir()) == ["step-00000010", "step-00000030"]


def test_shared_memory_is_saved_twice_rather_than_refused(tmp_path):
    shared = torch.ones(3)
    path = checkpoint.save(tmp_path, step=1, weights={"a": shared, "b": shared}, optimizer={}, state={})
    assert set(checkpoint.load(path).weights) == {"a", "b"}
