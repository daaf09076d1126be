"""What would run out of memory or disk is found before the first update, and said; without a fault nothing changes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
import torch

import luthier
from luthier.errors import MemoryShortage, SpaceError
from luthier.workflow import fit as fitting
from luthier.workflow import rehearsal
from luthier.workflow.events import Stage, Stepped

SHORTAGES = {
    "torch": RuntimeError(
        "[enforce fail at alloc_cpu.cpp:118] err == 0. DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"
    ),
    "cuda": torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB"),
    "python": MemoryError(),
    "kernel": OSError(errno.ENOMEM, "Cannot allocate memory"),
}


def raising(error: BaseException):
    def run(*_: object, **__: object) -> None:
        raise error

    return run


def endings(run: luthier.Run) -> dict[str, object]:
    return {"weights": run.facts["weights_sha256"], "log": run.lines("log.jsonl"), "evaluations": run.lines("evaluations.jsonl")}


def newest_run(recipe) -> luthier.Run:
    return luthier.find("latest", root=Path(recipe["output"]["folder"]))


@pytest.mark.parametrize("changes", [{}, {"method": "lora"}, {"training": {"precision": "bf16"}}, {"training": {"max_tokens": 60}}])
def test_a_rehearsed_training_ends_with_the_same_bits(recipe, changes):
    recipe["training"] |= changes.get("training", {})
    recipe |= {k: v for k, v in changes.items() if k != "training"}
    recipe["model"]["dropout"] = 0.2
    rehearsed = endings(luthier.train(recipe))
    recipe["training"]["rehearsal"] = False
    assert endings(luthier.train(recipe)) == rehearsed


def test_it_comes_before_the_first_update_and_leaves_no_file(recipe):
    seen = []
    run = luthier.train(recipe, listener=lambda e: seen.append(e.name if isinstance(e, Stage) else type(e)))
    assert seen.index("rehearsal") < seen.index("train") < seen.index(Stepped)
    assert not (run.folder / ".rehearsal").exists()


@pytest.mark.parametrize("kind", sorted(SHORTAGES))
@pytest.mark.parametrize(
    ("place", "cause", "remedy"),
    [
        ("train", "largest training batch", "lower training.max_tokens"),
        ("evaluate", "largest evaluation batch", "lower evaluation.max_tokens"),
        ("save", "saving a checkpoint", "method: lora"),
        ("merge", "merging the adapters", "lower rank"),
    ],
)
def test_a_shortage_names_its_cause_and_its_remedy(recipe, monkeypatch, kind, place, cause, remedy):
    recipe["method"] = "lora"
    fail = raising(SHORTAGES[kind])
    if place == "train":
        monkeypatch.setattr(fitting.Fit, "_loss", lambda self: fail)
    elif place == "evaluate":
        recipe["evaluation"]["base_model"] = False
        monkeypatch.setattr("luthier.tasks.classification.Classification.answer", lambda self, layout: fail)
    elif place == "save":
        monkeypatch.setattr(rehearsal.checkpoint, "save", fail)
    else:
        monkeypatch.setattr("peft.tuners.lora.layer.Linear.merge", fail)
    with pytest.raises(MemoryShortage) as raised:
        luthier.train(recipe)
    assert cause in str(raised.value)
    assert remedy in str(raised.value)
    assert "nothing was trained yet" in str(raised.value)
    run = newest_run(recipe)
    assert run.facts["status"] == "failed"
    assert not run.lines("log.jsonl")
    assert not (run.folder / ".rehearsal").exists()


def test_every_kind_of_fault_is_counted_in_its_place(recipe, monkeypatch):
    """Each of the four runs once; one that fails ends the rehearsal."""
    recipe["method"] = "lora"
    ran: list[str] = []
    for name in ("_train", "_evaluate", "_save", "_merge"):
        real = getattr(rehearsal, name)
        monkeypatch.setattr(rehearsal, name, lambda fit, name=name, real=real: (ran.append(name), real(fit)))
    luthier.train(recipe)
    assert ran == ["_train", "_evaluate", "_save", "_merge"]


def test_other_errors_stay_what_they_are(recipe, monkeypatch):
    monkeypatch.setattr(fitting.Fit, "_loss", lambda self: raising(RuntimeError("mat1 and mat2 shapes cannot be multiplied")))
    with pytest.raises(RuntimeError, match="mat1"):
        luthier.train(recipe)


def test_a_request_beyond_all_memory_is_understood(recipe, monkeypatch):
    """torch's own refusal, not an imitation."""
    monkeypatch.setattr(fitting.Fit, "_loss", lambda self: lambda *_: torch.empty(1 << 60, dtype=torch.uint8))
    with pytest.raises(MemoryShortage, match="largest training batch"):
        luthier.train(recipe)


def test_a_full_disk_is_said_before_the_first_update(recipe, monkeypatch):
    from luthier.security import artifacts

    free = artifacts.shutil.disk_usage("/")._replace(free=1 << 20)
    monkeypatch.setattr(artifacts.shutil, "disk_usage", lambda _: free)
    with pytest.raises(SpaceError):
        luthier.train(recipe)
    assert not newest_run(recipe).lines("log.jsonl")
