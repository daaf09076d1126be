"""Where a data set's files are: beside the recipe, under $LUTHIER_DATA, in the shipped sample, or online.

A public data set is named with the place and the commit it comes from, so that a recipe means the
same rows for everybody; a local copy under $LUTHIER_DATA/<name> is used first.
"""

from __future__ import annotations

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.rows import FORMATS
from luthier.data.sources.opened import archive_of
from luthier.errors import DataError, DependencyError
from luthier.recipe.origin import Origin, parse

if TYPE_CHECKING:
    from luthier.recipe.sections import Data

GITHUB = "https://raw.githubusercontent.com"
READABLE = frozenset(FORMATS)
SAMPLES = Path(__file__).parent.parent / "starters" / "samples"


def located(file: str, data: Data, *, folder: Path) -> list[Path]:
    """The paths that a recipe's file, folder or pattern means; for folders, every file in them that can be read.

    Raises DataError for a pattern that matches nothing and a folder without data files.
    """
    base = _local_base(data, folder)
    if data.sample:
        file = Path(file).name
    if base is not None and any(c in file for c in "*?["):
        if Path(file).is_absolute():
            base, file = Path("/"), file.lstrip("/")
        found = sorted(p for p in base.glob(file) if p.is_file())
        if not found:
            raise DataError(f"no file matches {file}", where=str(base), remedy="check the pattern in data.train, validation or test")
        return found
    if base is not None and (base / Path(file).expanduser()).is_dir():
        root = base / Path(file).expanduser()
        found = sorted(p for p in root.rglob("*") if p.is_file() and READABLE & {s.lower() for s in p.suffixes})
        if not found:
            raise DataError("holds no data files", where=str(root), remedy=f"put files in it: {', '.join(sorted(READABLE))}")
        return found
    return [locate(file, data, folder=folder)]


def _local_base(data: Data, folder: Path) -> Path | None:
    """The folder that patterns are matched in; None where a set is not at hand."""
    if data.name is None:
        return folder
    if data.sample:
        return SAMPLES / data.name
    root = os.environ.get("LUTHIER_DATA")
    return Path(root).expanduser() / data.name if root else None


def locate(file: str, data: Data, *, folder: Path) -> Path:
    """The path of one of a recipe's files, fetched where it must be.

    Raises DataError that names every place where it was looked for.
    """
    if data.name is None:
        return _plain_or_gz(folder / Path(file).expanduser())
    if Path(file).is_absolute() or ".." in Path(file).parts:
        raise DataError(f"{file} leads out of the data set {data.name}", where="data", remedy="give paths inside it")
    if data.sample:
        sample = _plain_or_gz(SAMPLES / data.name / Path(file).name)
        if not sample.is_file():
            raise DataError(f"no sample of {data.name} ships with Luthier", where="data.sample")
        return sample
    root = os.environ.get("LUTHIER_DATA")
    if root:
        path = _plain_or_gz(Path(root).expanduser() / data.name / file)
        if archive_of(path).is_file():
            return path
    looked = f"$LUTHIER_DATA/{data.name}" if root else "LUTHIER_DATA (not set)"
    remedy = f"set LUTHIER_DATA to a folder that holds {data.name}/{file}"
    if (SAMPLES / data.name).is_dir():
        remedy += ", or try the shipped rows with --set data.sample=true"
    if data.origin is None:
        raise DataError(f"{file} of {data.name} is not in {looked}", where="data.name", remedy=remedy)
    whole, _, inside = file.partition(".zip/")
    if inside:
        return _fetch(f"{whole}.zip", parse(data.origin), data.name, looked=looked, remedy=remedy) / inside
    return _fetch(file, parse(data.origin), data.name, looked=looked, remedy=remedy)


def _plain_or_gz(path: Path) -> Path:
    packed = path.with_name(path.name + ".gz")
    return packed if not path.exists() and packed.exists() else path


def _fetch(file: str, origin: Origin, name: str, *, looked: str, remedy: str) -> Path:
    """Download once, into the cache, by commit."""
    inside = f"{origin.folder}/{file}" if origin.folder else file
    if origin.host == "hf":
        try:
            from huggingface_hub import hf_hub_download
        except ImportError:
            raise DependencyError("huggingface_hub", extra="all", purpose="fetching a data set") from None
        try:
            return Path(hf_hub_download(origin.repository, inside, repo_type="dataset", revision=origin.commit))
        except Exception as error:  # the hub client raises many kinds; each means: not to be had
            raise DataError(
                f"{inside} of {origin.repository} could not be fetched ({type(error).__name__}), and is not in {looked}",
                where="data.origin",
                remedy=remedy,
            ) from None
    cache = Path(os.environ.get("LUTHIER_CACHE", "~/.cache/luthier")).expanduser()
    path = cache / "data" / origin.commit / inside
    if path.is_file():
        return path
    url = f"{GITHUB}/{origin.repository}/{origin.commit}/{urllib.request.quote(inside)}"  # type: ignore[attr-defined]
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:  # noqa: S310  (https, pinned commit)
            content = answer.read()
    except (urllib.error.URLError, OSError, http.client.HTTPException) as error:
        raise DataError(
            f"{file} could not be fetched from {url} ({error}), and is not in {looked}", where="data.origin", remedy=remedy
        ) from None
    from luthier.security.artifacts import write_atomic

    write_atomic(path, lambda p: p.write_bytes(content))
    return path
