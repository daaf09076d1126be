"""Adapters made into something else: merged into their base, or several combined into one.

Enters: folders of adapters. Leaves: a plain model folder, written in the memory of one shard; or adapters again.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import AutoConfig, AutoModel

from luthier.errors import ModelError
from luthier.inference.model import read_card, restore_task
from luthier.models import load as loading
from luthier.models.adapters.several import Adapters, How
from luthier.models.adapters.streaming import local_base, write_merged
from luthier.models.config import AUTO, adapt_config, set_labels
from luthier.models.heads import Head
from luthier.models.load import Loaded
from luthier.models.source import base_facts, base_of, is_adapter
from luthier.recipe.sections import Model
from luthier.security.artifacts import new_folder


def merge(folder: Path, target: Path, *, dtype: str | None = None) -> None:
    """Write the merged model to `target`. Raises ModelError where there are no adapters to merge, SpaceError for a bad target."""
    if not is_adapter(folder):
        raise ModelError("holds no adapters: it is a whole model already", where=str(folder), remedy="luthier export writes it out")
    with new_folder(target) as temporary:
        fill_merged(folder, temporary, dtype=dtype)


def fill_merged(folder: Path, target: Path, *, dtype: str | None = None) -> None:
    """The merged model into a folder that is there and empty."""
    config, auto = _config(folder)
    write_merged(folder, target, config=config, auto=auto, dtype=dtype)
    _copy_rest(folder, target)


def combine(weights: Mapping[Path, float], target: Path, *, how: How = "linear", density: float = 0.5, seed: int = 0) -> None:
    """Write the weighted combination of several folders of adapters. Raises ModelError where they do not combine."""
    folders = list(weights)
    for folder in folders:
        if not is_adapter(folder):
            raise ModelError("holds no adapters", where=str(folder), remedy="give runs that were trained with lora")
    with new_folder(target) as temporary:
        adapters = Adapters(_base(folders[0]), {f"part-{i}": f for i, f in enumerate(folders)})
        adapters.combine("combined", {f"part-{i}": w for i, w in enumerate(weights.values())}, how=how, density=density, seed=seed)
        adapters.save("combined", temporary)
        for path in folders[0].iterdir():
            if path.is_file() and not (temporary / path.name).exists() and path.name != "README.md":
                shutil.copy2(path, temporary / path.name)


def _base(folder: Path) -> Loaded:
    """The base model of a folder of adapters, with the head that they were trained with."""
    base = base_of(folder)
    section = Model(name=base.name, layers=base_facts(folder).get("layers"))
    if (folder / "luthier.json").is_file():
        card = read_card(folder)
        return loading.load(base, section.model_copy(update={"head": card["head"]}), head=restore_task(card).head)
    return loading.load(base, section, head=lambda config: Head("pairs" if config.is_encoder_decoder else "causal"))


def _config(folder: Path) -> tuple[Any, Any]:
    """The merged model's config, with its labels, and the class that it is built with."""
    config = AutoConfig.from_pretrained(local_base(folder), trust_remote_code=False)
    adapt_config(config, Model(name=base_of(folder).name, layers=base_facts(folder).get("layers")))
    kind = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")).get("task_type")
    if (folder / "luthier.json").is_file():
        card = read_card(folder)
        head = restore_task(card).head(config)
        if head.apart(card["head"]):
            return config, AutoModel
        set_labels(config, head)
        return config, AUTO[head.kind]
    known = {"CAUSAL_LM": "causal", "SEQ_2_SEQ_LM": "pairs"}
    if kind not in known:
        raise ModelError(f"are for {kind}, and Luthier did not train them", where=str(folder), remedy="merge them where they were trained")
    return config, AUTO[known[kind]]


def _copy_rest(folder: Path, target: Path) -> None:
    """Tokenizer, head, what others want to find beside a model, and the card without its base."""
    for path in folder.iterdir():
        if path.is_dir() and not path.name.startswith("."):
            shutil.copytree(path, target / path.name, dirs_exist_ok=True)
        if path.is_file() and not path.name.startswith(("adapter_", ".")) and path.name != "luthier.json":
            shutil.copy2(path, target / path.name)
    if (folder / "luthier.json").is_file():
        card = json.loads((folder / "luthier.json").read_text(encoding="utf-8"))
        card.pop("base", None)
        (target / "luthier.json").write_text(json.dumps(card, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        if not (target / name).is_file() and (local_base(folder) / name).is_file():
            shutil.copy2(local_base(folder) / name, target / name)
