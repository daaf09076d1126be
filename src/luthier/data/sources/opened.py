"""A path to its bytes: plain, gzip, zstandard, or a member of a zip archive; never more than was promised.

What is packed is unpacked as it is read. A file that unpacks to far more than it should (a bomb) is refused before it
fills memory or disk. Of a plain file no more is read than it held when it was first looked at, so that one that grows
in the meantime gives the same rows twice.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from luthier.errors import DataError
from luthier.registry import require

GZIP, ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@dataclass(frozen=True)
class Limits:
    """How much may come out of a packed file."""

    ratio: int = 200
    """Times its packed size, once `grace` bytes are out."""
    grace: int = 64 << 20
    most: int = 256 << 30
    """Bytes in all."""
    layers: int = 3
    """Packed inside packed."""


LIMITS = Limits()


def archive_of(path: Path) -> Path:
    """The file on the disk that holds `path`: itself, or the zip archive that it leads into."""
    return next((p for p in path.parents if p.suffix.lower() == ".zip" and p.is_file()), path)


class Counted(io.RawIOBase):
    """A stream that stops after `size` bytes where one is given, and raises DataError past a limit; hashes what it gave."""

    def __init__(
        self, inner: Any, where: str, *, kind: str, size: int | None = None, packed: int | None = None, limits: Limits = LIMITS
    ) -> None:
        self._inner, self._where, self._left, self._packed, self._limits, self._kind = inner, where, size, packed, limits, kind
        self.given = 0
        self.digest = hashlib.sha256() if size is not None else None

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        wanted = len(buffer) if self._left is None else min(len(buffer), self._left)
        if not wanted:
            return 0
        try:
            data = self._inner.read(wanted)
        except (OSError, EOFError, zlib.error, zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
            raise DataError(f"is a damaged {self._kind}: {error}", where=self._where, remedy="fetch it again") from None
        except Exception as error:
            if type(error).__module__.partition(".")[0] not in ("zstandard", "backports"):
                raise
            raise DataError(f"is a damaged {self._kind}: {error}", where=self._where, remedy="fetch it again") from None
        buffer[: len(data)] = data
        self.given += len(data)
        if self._left is not None:
            self._left -= len(data)
        if self.digest is not None:
            self.digest.update(data)
        if self._packed is not None:
            self._refuse_a_bomb()
        return len(data)

    def _refuse_a_bomb(self) -> None:
        limits, packed = self._limits, max(self._packed or 0, 1)
        if self.given > limits.most or (self.given > limits.grace and self.given > limits.ratio * packed):
            raise DataError(
                f"unpacks to more than {self.given >> 20} MiB from {packed >> 10} KiB: it looks like a zip bomb",
                where=self._where,
                remedy=f"where it is none, unpack it yourself; at most {limits.ratio} times the packed size is read",
            )


@contextmanager
def opened(path: Path, *, size: int | None = None, digest: str | None = None, limits: Limits = LIMITS) -> Iterator[BinaryIO]:
    """The unpacked bytes of a file or zip member, as a buffered stream.

    `size` and `digest` are what the file on the disk had when it was surveyed: no more than that is read, and when all is
    read the hash must agree. Raises DataError for files that are missing, special, damaged, bombs, or changed meanwhile.
    """
    archive = archive_of(path)
    with contextlib.ExitStack() as stack:
        try:
            raw = stack.enter_context(archive.open("rb"))
            about = os.fstat(raw.fileno())
        except FileNotFoundError:
            raise DataError(
                "no such file", where=str(path), remedy="check the path; in a recipe, data.train, data.validation and data.test"
            ) from None
        except OSError as error:
            raise DataError(f"cannot be read: {error.strerror}", where=str(path)) from None
        if not stat.S_ISREG(about.st_mode):
            raise DataError("is no regular file", where=str(path), remedy="give a file or a folder of files")
        length = about.st_size if size is None else size
        if about.st_size < length:
            raise DataError("got shorter while it was read", where=str(path), remedy="run again when nothing writes to it")
        whole: Counted | None = None
        if archive == path:
            whole = Counted(raw, str(path), kind="file", size=length)
            stream: Any = io.BufferedReader(whole, 1 << 20)
            packed = length
        else:
            member = stack.enter_context(_member(raw, path, archive))
            packed = member.compressed
            stream = io.BufferedReader(Counted(member.stream, str(path), kind="zip archive", packed=packed, limits=limits), 1 << 20)
        yield _unpacked(stream, path, packed, limits)
        read = whole.digest if whole is not None and whole.given == length else None
        if read is not None and digest is not None and read.hexdigest() != digest:
            raise DataError("was changed while it was read", where=str(path), remedy="run again when nothing writes to it")


def _unpacked(stream: Any, path: Path, packed: int, limits: Limits) -> BinaryIO:
    inner: Any
    for _ in range(limits.layers):
        head = stream.peek(4)[:4]
        if head[:2] == GZIP:
            import gzip

            kind, inner = "gzip file", gzip.GzipFile(fileobj=stream)
        elif head == ZSTD:
            package = require("zstandard", extra="data", purpose="reading .zst files")
            kind, inner = "zstandard file", package.ZstdDecompressor().stream_reader(stream, read_across_frames=True)
        else:
            break
        stream = io.BufferedReader(Counted(inner, str(path), kind=kind, packed=packed, limits=limits), 1 << 20)
    return stream


@dataclass(frozen=True)
class _Member:
    stream: Any
    compressed: int


@contextmanager
def _member(raw: Any, path: Path, archive: Path) -> Iterator[_Member]:
    inside = path.relative_to(archive).as_posix()
    try:
        with zipfile.ZipFile(raw) as opened_zip:
            try:
                info = opened_zip.getinfo(inside)
            except KeyError:
                names = ", ".join(opened_zip.namelist()[:8])
                raise DataError(f"has no {inside}", where=str(archive), remedy=f"it holds {names}") from None
            _refuse_unsafe(info, archive)
            with opened_zip.open(info) as stream:
                yield _Member(stream, info.compress_size)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, zlib.error) as error:
        raise DataError(f"is a damaged zip archive: {error}", where=str(archive), remedy="fetch it again") from None


def _refuse_unsafe(info: zipfile.ZipInfo, archive: Path) -> None:
    """Raise DataError for a member that is a link or device, that leads out of the archive, or that is encrypted."""
    name, mode = info.filename, info.external_attr >> 16
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name.replace("\\", "/")).parts:
        raise DataError(f"has a member that leads out of it: {name!r}", where=str(archive), remedy="do not trust it; make it anew")
    if mode and stat.S_IFMT(mode) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise DataError(f"has a member that is no regular file: {name!r}", where=str(archive), remedy="make it anew without links")
    if info.flag_bits & 1:
        raise DataError(f"is encrypted: {name!r}", where=str(archive), remedy="unpack it first")


def members(archive: Path) -> list[Path]:
    """The files in a zip archive, as paths that lead into it. Raises DataError where one of them is not safe to read."""
    try:
        with zipfile.ZipFile(archive) as opened_zip:
            infos = opened_zip.infolist()
    except (zipfile.BadZipFile, OSError, NotImplementedError) as error:
        raise DataError(f"is a damaged zip archive: {error}", where=str(archive), remedy="fetch it again") from None
    for info in infos:
        _refuse_unsafe(info, archive)
    return [archive / info.filename for info in infos if not info.is_dir()]
