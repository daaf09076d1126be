"""Files that can be trusted: written whole or not at all, hashed, and never executable on loading.

Only safetensors, JSON and Arrow are written; pickles are refused wherever a model is read.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from luthier.errors import ModelError, SpaceError

PICKLES = (".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz")


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Have a file or folder reach the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_atomic(path: Path, write: Callable[[Path], object]) -> None:
    """Call `write` on a temporary neighbour, sync it, and rename it to `path`.

    Raises SpaceError where the disk is full or the folder cannot be written; the old file stays.
    """
    if not path.name:
        raise SpaceError("is a folder, not a file", where=str(path), remedy="give a file name")
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(temporary)
        sync(temporary)
        os.replace(temporary, path)
        sync(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):  # its folder may be a file
            temporary.unlink()
        raise SpaceError(
            f"cannot be written: {error.strerror or error}",
            where=str(path),
            remedy="free some space or choose another folder with output.folder",
        ) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_text(path: Path, text: str) -> None:
    """Write UTF-8 text atomically."""
    write_atomic(path, lambda p: p.write_text(text, encoding="utf-8"))


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON atomically; NaN becomes null."""
    write_text(path, json.dumps(finite(value), indent=1, ensure_ascii=False, default=str) + "\n")


def write_jsonl(path: Path, rows: Iterable[Any]) -> None:
    """Write one JSON object a line, atomically."""
    write_text(path, "".join(json.dumps(finite(r), ensure_ascii=False, default=str) + "\n" for r in rows))


def finite(value: Any) -> Any:
    """The value with NaN and infinities as None, so that it is JSON for every reader."""
    if isinstance(value, float):
        return value if value == value and abs(value) != float("inf") else None
    if isinstance(value, dict):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A temporary folder that becomes `target` when all went well, and is gone otherwise.

    Raises SpaceError where `target` is there with something in it, or cannot be written.
    """
    if target.exists() and any(target.iterdir() if target.is_dir() else [target]):
        raise SpaceError("is there already and not empty", where=str(target), remedy="choose another folder")
    temporary = target.with_name(f".{target.name}.part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        yield temporary
        if target.is_dir():
            target.rmdir()
        temporary.rename(target)
    except OSError as error:
        raise SpaceError(f"cannot be written: {error.strerror or error}", where=str(target), remedy="choose another folder") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def need_space(folder: Path, size: int, *, purpose: str) -> None:
    """Raise SpaceError unless `folder` can be written and its disk has `size` bytes (and a little) free."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe.{os.getpid()}"
        probe.write_bytes(b"x")
        probe.unlink()
    except OSError as error:
        raise SpaceError(
            f"cannot be written: {error.strerror}", where=str(folder), remedy="choose another folder with output.folder"
        ) from error
    free = shutil.disk_usage(folder).free
    if free < size * 1.05 + (16 << 20):
        raise SpaceError(
            f"{purpose} needs {size / 2**20:,.0f} MiB, {free / 2**20:,.0f} MiB are free",
            where=str(folder),
            remedy="free some space, or choose another folder with output.folder",
        )


def refuse_pickles(folder: Path) -> None:
    """Raise ModelError when a model folder has weights only as pickles."""
    if any(folder.glob("*.safetensors")):
        return
    found = [p.name for p in folder.iterdir() if p.suffix in PICKLES]
    if found:
        raise ModelError(
            f"has its weights only in {found[0]}, a format that can run code when loaded",
            where=str(folder),
            remedy="convert it to safetensors first",
        )
