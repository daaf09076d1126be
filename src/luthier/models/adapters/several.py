"""Several adapters on one base model: switched in a moment, or combined into one.

Enters: a loaded base and folders of adapters. Leaves: the same model, answering with the adapters that are in
use. PEFT keeps and combines them.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from luthier.errors import ModelError
from luthier.models.adapters.saved import check_base
from luthier.models.source import base_facts, base_of, is_adapter

if TYPE_CHECKING:
    from luthier.models.load import Loaded

How = Literal["linear", "svd", "ties", "ties_svd", "dare_linear", "dare_ties"]


class Adapters:
    """Adapters by name on one base. The base itself is never changed."""

    def __init__(self, loaded: Loaded, folders: Mapping[str, Path]) -> None:
        """Load every folder. Raises ModelError for one whose base is another, or that does not fit."""
        from peft import PeftModel

        self.loaded = loaded
        self._model: Any = None
        for name, folder in folders.items():
            if not is_adapter(folder):
                raise ModelError("holds no adapters", where=str(folder), remedy="give the model folder of a run with adapters")
            base = base_of(folder)
            if loaded.base is None or base.location != loaded.base.location:
                raise ModelError(f"was trained on {base.location}, not on this base", where=str(folder))
            if base.local is not None:
                check_base(folder, base.local, base_facts(folder).get("sha256", {}))
            try:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    if self._model is None:
                        self._model = PeftModel.from_pretrained(loaded.trunk, str(folder), adapter_name=name)
                    else:
                        self._model.load_adapter(str(folder), adapter_name=name)
            except (RuntimeError, ValueError, KeyError) as error:
                raise ModelError(f"does not fit: {str(error).splitlines()[0][:200]}", where=str(folder)) from error

    @property
    def names(self) -> list[str]:
        """All that are loaded."""
        return list(self._model.peft_config)

    def use(self, name: str) -> None:
        """Answer with these from now on."""
        if name not in self.names:
            raise ModelError(f"no adapters {name!r}", remedy=f"one of: {', '.join(self.names)}")
        self._model.set_adapter(name, inference_mode=True)

    @contextmanager
    def off(self) -> Iterator[None]:
        """The base alone, for a while."""
        with self._model.disable_adapter():
            yield

    def merge(self) -> None:
        """Add those in use to the weights: a little faster to answer with."""
        self._model.merge_adapter(safe_merge=True)

    def unmerge(self) -> None:
        """Take them out again."""
        self._model.unmerge_adapter()

    def combine(self, name: str, weights: Mapping[str, float], *, how: How = "linear", density: float = 0.5, seed: int = 0) -> None:
        """New adapters from others, each with a weight: TIES (Yadav et al. 2023) and DARE (Yu et al. 2023) by PEFT.

        `density` is the share of the values that ties and dare keep. Raises ModelError for kinds that do not combine.
        """
        import torch

        torch.manual_seed(seed)
        options: dict[str, Any] = {} if how in ("linear", "svd") else {"density": density}
        try:
            self._model.add_weighted_adapter(list(weights), list(weights.values()), name, combination_type=how, **options)
        except (AttributeError, ValueError, RuntimeError, NotImplementedError) as error:
            raise ModelError(
                f"cannot be combined by {how}: {str(error).splitlines()[0][:200]}",
                where=", ".join(weights),
                remedy="combine LoRA adapters; of different ranks by svd or ties_svd",
            ) from error

    def save(self, name: str, folder: Path) -> None:
        """Write one of them as a plain PEFT folder; the folder is made."""
        folder.mkdir(parents=True, exist_ok=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._model.save_pretrained(str(folder), selected_adapters=[name])
        inner = folder / name
        if name != "default" and inner.is_dir():
            for path in inner.iterdir():
                path.replace(folder / path.name)
            inner.rmdir()
        (folder / "README.md").unlink(missing_ok=True)  # PEFT's empty template
