"""What a user names to where rows are: files, folders, patterns, zip archives, databases, data sets of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from luthier.data.rows import FORMATS, PACKED
from luthier.data.sources.opened import archive_of, members
from luthier.errors import DataError
from luthier.registry import require

TABLES = {".arrow": "arrow", ".feather": "arrow", ".ipc": "arrow", ".xlsx": "excel", ".xlsm": "excel"}
READABLE = {**FORMATS, **TABLES}
HUB = re.compile(r"hf:(?P<name>[^@]+)(@(?P<revision>[^/]+)(/(?P<inside>.+))?)?")
IGNORED = {"dataset_info.json", "state.json", "dataset_infos.json", "dataset_dict.json", "README.md", "LICENSE.txt", "LICENSE.md"}
"""Files beside the rows of a data set."""
BESIDE = ("fates", "findings", "relabel")
"""What is told of rows in a file of that name beside them."""


@dataclass(frozen=True)
class Input:
    """One place with rows. `part` names the output that its rows go to."""

    path: Path | None
    name: str
    part: str
    url: str = ""


def expand(given: list[str]) -> tuple[list[Input], list[str]]:
    """The inputs that some arguments mean, and notes on what was passed over. Raises DataError for what is not there or not safe."""
    found: list[Input] = []
    notes: list[str] = []
    for text in given:
        more = _one(text, notes)
        part = _part(text, {i.part for i in found})
        found += [Input(i.path, i.name, part, i.url) for i in more]
    return found, notes


def format_of(path: Path) -> str:
    """The format that a name tells. Raises DataError where it tells none."""
    suffixes = [s.lower() for s in path.suffixes if s.lower() not in PACKED]
    kind = READABLE.get(suffixes[-1] if suffixes else "")
    if kind is None:
        remedy = f"name it {', '.join(READABLE)} (also .gz, .zst or in a .zip), or give its format"
        raise DataError(f"cannot tell the format from the name {path.name!r}", where=str(path), remedy=remedy)
    return kind


def _one(text: str, notes: list[str]) -> list[Input]:
    if "://" in text:
        return [Input(None, text.partition("://")[0], "", text)]
    if text.startswith("hf:"):
        return _hub(text, notes)
    path = Path(text).expanduser()
    if path.is_dir():
        return [Input(p, str(p), "") for p in _folder(path, notes)]
    if path.suffix.lower() == ".zip" and archive_of(path / "x") == path:
        return [Input(p, str(p), "") for p in _readable(members(path), path, notes)]
    if any(c in text for c in "*?[") and not path.exists():
        base, pattern = (Path("/"), text.lstrip("/")) if path.is_absolute() else (Path(), text)
        matched = sorted(p for p in base.glob(pattern) if p.is_file())
        if not matched:
            raise DataError(f"no file matches {text}", remedy="check the pattern")
        return [Input(p, str(p), "") for p in matched]
    return [Input(path, str(path), "")]


def _folder(root: Path, notes: list[str]) -> list[Path]:
    """The data files below a folder; links that lead out of it are passed over, and told."""
    inside, found = root.resolve(), []
    for place, folders, files in os.walk(root):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            path = Path(place) / name
            if path.is_symlink() and not path.resolve().is_relative_to(inside):
                notes.append(f"{path}: a link that leads out of the folder; passed over")
            elif path.is_file():
                found.append(path)
    return _readable(found, root, notes)


def _readable(paths: list[Path], root: Path, notes: list[str]) -> list[Path]:
    kept = [p for p in paths if p.name not in IGNORED and not p.name.startswith(".") and _known(p)]
    passed = [p.name for p in paths if p not in kept]
    if not kept:
        raise DataError("holds no data files", where=str(root), remedy=f"put files in it: {', '.join(READABLE)}")
    if passed:
        notes.append(f"{root}: {len(passed)} files passed over, such as {passed[0]}")
    return kept


def _known(path: Path) -> bool:
    try:
        return bool(format_of(path))
    except DataError:
        return False


def _hub(text: str, notes: list[str]) -> list[Input]:
    """The data files of a data set on the hub at one revision, or of a local folder that has its layout."""
    parsed = HUB.fullmatch(text)
    if parsed is None:
        raise DataError(f"{text!r} names no data set", remedy="hf:OWNER/NAME@REVISION, with /FOLDER or /FILE behind it for a part")
    local = Path(parsed["name"]).expanduser()
    if local.is_dir():
        return [Input(p, str(p), "") for p in _folder(local, notes)]
    if parsed["revision"] is None:
        raise DataError(f"{text!r} has no revision", remedy=f"{text}@COMMIT, so that it means the same rows tomorrow")
    hub = require("huggingface_hub", extra="data", purpose="fetching a data set")
    inside = parsed["inside"] or ""
    try:
        about = hub.HfApi().dataset_info(parsed["name"], revision=parsed["revision"])
        names = sorted(
            f.rfilename
            for f in about.siblings
            if f.rfilename == inside or f.rfilename.startswith(f"{inside.rstrip('/')}/" if inside else "")
        )
        names = [n for n in names if Path(n).name not in IGNORED and _known(Path(n))]
        paths = [(n, Path(hub.hf_hub_download(parsed["name"], n, repo_type="dataset", revision=about.sha))) for n in names]
    except Exception as error:  # the hub client raises many kinds; each means: not to be had
        raise DataError(
            f"{text} could not be fetched: {type(error).__name__}",
            remedy="check the name, the revision and the network; or give a local folder",
        ) from None
    if not paths:
        raise DataError(f"{text} holds no data files", remedy=f"files that are read: {', '.join(READABLE)}")
    notes.append(f"{parsed['name']} at commit {about.sha}")
    return [Input(p, f"hf:{parsed['name']}@{about.sha}/{n}", "") for n, p in paths]


def _part(text: str, taken: set[str]) -> str:
    """A name for the output of an argument, unlike those taken."""
    if "://" in text:
        name = "query"
    elif text.startswith("hf:"):
        name = text[3:].partition("@")[0].rstrip("/").rpartition("/")[2]
    else:
        name = Path(text).expanduser().resolve().name
        while Path(name).suffix.lower() in {*READABLE, *PACKED, ".zip"}:
            name = Path(name).stem
    name = re.sub(r"[^\w.-]+", "_", name).strip("._") or "rows"
    name = f"{name}_rows" if name in BESIDE else name
    number = 1
    chosen = name
    while chosen in taken:
        number += 1
        chosen = f"{name}-{number}"
    return chosen
