"""Writes docs/recipe.md from the recipe's own schema: python docs/make_reference.py"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from luthier.recipe.sections import Recipe
from luthier.registry import METHOD_OPTIONS, RETENTION_OPTIONS, REWARD_OPTIONS, STAGE_OPTIONS, TASK_OPTIONS

CHOICES = {"task": TASK_OPTIONS, "method": METHOD_OPTIONS, "retention": RETENTION_OPTIONS}

HEAD = """# The recipe, field by field

Generated from the schema by `docs/make_reference.py`. `luthier explain RECIPE` shows what each becomes.
"""


def reference() -> str:
    """The page as Markdown: a table for each section."""
    parts = [HEAD]
    for name, field in Recipe.model_fields.items():
        if name in CHOICES:
            parts += [_table(f"{name}: {choice}", CHOICES[name].load(choice)) for choice in CHOICES[name].names()]
            if name == "task":
                parts += [_table(f"task.rewards: {reward}", REWARD_OPTIONS.load(reward)) for reward in REWARD_OPTIONS.names()]
            continue
        section: Any = field.annotation
        parts.append(_table(name, section))
        parts += [_table(f"{name}.{key}", inner) for key, inner in _inner(section)]
        if name == "data":
            parts += [_table(f"data.clean: {stage}", STAGE_OPTIONS.load(stage)) for stage in STAGE_OPTIONS.names()]
    return "".join(parts)


def _inner(section: type[BaseModel]) -> list[tuple[str, type[BaseModel]]]:
    """The optional sections inside a section."""
    found = []
    for key, item in section.model_fields.items():
        found += [(key, part) for part in get_args(item.annotation) if isinstance(part, type) and issubclass(part, BaseModel)]
    return found


def _table(title: str, section: type[BaseModel]) -> str:
    lines = [f"\n## {title}\n\n{inspect.getdoc(section)}\n\n| field | default | |\n|---|---|---|\n"]
    for key, item in section.model_fields.items():
        required = item.default is PydanticUndefined and item.default_factory is None
        default = "required" if required else item.get_default(call_default_factory=True)
        shown = (
            default
            if required
            else f"`{'none' if default is None else repr(default) if default == '' or chr(10) in str(default) else default}`"
        )
        lines.append(f"| `{key}` | {shown} | {(item.description or '').replace('|', '/')} |\n")
    return "".join(lines)


if __name__ == "__main__":
    Path(__file__).with_name("recipe.md").write_text(reference(), encoding="utf-8")
