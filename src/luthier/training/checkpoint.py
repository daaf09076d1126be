"""Checkpoints: written whole or not at all, hashed, and refused when a bit has changed.

Enters: named tensors and a JSON state. Leaves: a folder `step-00000120` with weights.safetensors,
optimizer.safetensors, state.json, and last of all `complete.json`, which holds the SHA-256 of each
file. Loading takes the newest folder whose marker and digests hold; the others are named.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from luthier.errors import CheckpointError, SpaceError
from luthier.security.artifacts import need_space, sha256, sync

MARKER = "complete.json"
FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")


@dataclass(frozen=True)
class Checkpoint:
    """What was saved after an update."""

    step: int
    weights: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    state: dict[str, Any]


def save(folder: Path, *, step: int, weights: Mapping[str, Tensor], optimizer: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Write a checkpoint below `folder`; returns its path.

    Raises SpaceError, leaving no partial checkpoint, where the disk is full.
    """
    final = folder / f"step-{step:08d}"
    temporary = folder / f".step-{step:08d}.part"
    size = sum(t.numel() * t.element_size() for tensors in (weights, optimizer) for t in tensors.values())
    need_space(folder, size, purpose="a checkpoint")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        save_file(_plain(weights), temporary / FILES[0])
        save_file(_plain(optimizer), temporary / FILES[1])
        (temporary / FILES[2]).write_text(json.dumps({"step": step, **state}), encoding="utf-8")
        for name in FILES:
            sync(temporary / name)
        marker = {"step": step, "sha256": {name: sha256(temporary / name) for name in FILES}}
        (temporary / MARKER).write_text(json.dumps(marker), encoding="utf-8")
        sync(temporary / MARKER)
        sync(temporary)
        shutil.rmtree(final, ignore_errors=True)
        os.replace(temporary, final)
        sync(folder)
    except (OSError, SafetensorError, RuntimeError) as error:  # a full disk comes as any of these
        shutil.rmtree(temporary, ignore_errors=True)
        raise SpaceError(
            f"the checkpoint could not be written: {error}",
            where=str(folder),
            remedy="free some space and resume; earlier checkpoints are whole",
        ) from error
    return final


def verify(path: Path) -> str:
    """Empty when every file of a checkpoint is as it was written, else what is wrong."""
    try:
        marker = json.loads((path / MARKER).read_text(encoding="utf-8"))
        if path.name != f"step-{int(marker['step']):08d}":
            return f"is named {path.name} but holds step {marker['step']}"
        digests = marker["sha256"]
        if set(digests) != set(FILES):
            return f"{MARKER} does not list its files"
        for name in FILES:
            if sha256(path / name) != digests[name]:
                return f"{name} has changed since it was written"
        if json.loads((path / FILES[2]).read_text(encoding="utf-8"))["step"] != marker["step"]:
            return "its files are of different steps"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"{MARKER} cannot be read: {error}"
    return ""


def load(path: Path) -> Checkpoint:
    """Read one checkpoint. Raises CheckpointError when it is not whole."""
    fault = verify(path)
    if fault:
        raise CheckpointError(fault, where=str(path), remedy="luthier resume goes on from the newest whole one")
    state = json.loads((path / FILES[2]).read_text(encoding="utf-8"))
    try:
        return Checkpoint(state.pop("step"), load_file(path / FILES[0]), load_file(path / FILES[1]), state)
    except SafetensorError as error:
        raise CheckpointError(f"cannot be read: {error}", where=str(path)) from error


def newest(folder: Path) -> tuple[Path | None, dict[str, str]]:
    """The newest whole checkpoint, and what is wrong with each newer one."""
    refused: dict[str, str] = {}
    for path in sorted(folder.glob("step-*"), reverse=True):
        fault = verify(path)
        if not fault:
            return path, refused
        refused[path.name] = fault
    return None, refused


def set_aside(path: Path) -> None:
    """Take a refused checkpoint out of the count, so that pruning never prefers it to a whole one."""
    aside = path.with_name(f"refused-{path.name}")
    shutil.rmtree(aside, ignore_errors=True)
    path.rename(aside)


def prune(folder: Path, *, keep: int, spare: set[str]) -> None:
    """Remove all but the newest `keep` checkpoints and those named in `spare`, and left-over parts."""
    names = sorted((p.name for p in folder.glob("step-*")), reverse=True)
    for name in names[keep:]:
        if name not in spare:
            shutil.rmtree(folder / name)
    for path in folder.glob(".step-*.part"):
        shutil.rmtree(path, ignore_errors=True)


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous CPU tensors that share no memory, as safetensors wants them."""
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().cpu().contiguous()
        plain[name] = value.clone() if value.data_ptr() in seen and value.numel() else value
        seen.add(value.data_ptr())
    return plain
