"""Luthier fine-tunes language models, from raw data to a measured and served model.

The public names, loaded when first used:

    import luthier
    run = luthier.train("recipe.yaml")
    luthier.predict(run, ["some text"])
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from luthier.errors import LuthierError
    from luthier.inference.model import Predictor
    from luthier.recipe import Recipe, load_recipe
    from luthier.runs.store import Run, find
    from luthier.workflow.check import check
    from luthier.workflow.measure import compare, evaluate, predict
    from luthier.workflow.similar import similar
    from luthier.workflow.train import continue_run, reproduce, resume, train

__version__ = "0.1.0"

_WHERE = {
    "LuthierError": "luthier.errors",
    "Predictor": "luthier.inference.model",
    "Recipe": "luthier.recipe",
    "load_recipe": "luthier.recipe",
    "Run": "luthier.runs.store",
    "find": "luthier.runs.store",
    "check": "luthier.workflow.check",
    "train": "luthier.workflow.train",
    "resume": "luthier.workflow.train",
    "continue_run": "luthier.workflow.train",
    "reproduce": "luthier.workflow.train",
    "predict": "luthier.workflow.measure",
    "evaluate": "luthier.workflow.measure",
    "compare": "luthier.workflow.measure",
    "similar": "luthier.workflow.similar",
}
__all__ = sorted(_WHERE)


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module 'luthier' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)
