"""Writes docs/recipe.md from the recipe's own schema: python docs/make_reference.py"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from luthier.recipe.sections import Recipe
from luthier.recipe.tasks.classification import ClassificationOptions

HEAD = """# The recipe, field by field

Generated from the schema by `docs/make_reference.py`. `luthier explain RECIPE` shows what each becomes.
"""


def reference() -> str:
    """The page as Markdown: a table for each section."""
    parts = [HEAD]
    for name, field in Recipe.model_fields.items():
        section: Any = ClassificationOptions if name == "task" else field.annotation
        assert issubclass(section, BaseModel)
        parts.append(f"\n## {name}\n\n{inspect.getdoc(section)}\n\n| field | default | |\n|---|---|---|\n")
        for key, item in section.model_fields.items():
            required = item.default is PydanticUndefined and item.default_factory is None
            default = "required" if required else item.get_default(call_default_factory=True)
            shown = default if required else f"`{'none' if default is None else default}`"
            parts.append(f"| `{key}` | {shown} | {(item.description or '').replace('|', '/')} |\n")
    return "".join(parts)


if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(reference(), encoding="utf-8")
