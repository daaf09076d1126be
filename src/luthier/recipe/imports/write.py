"""A draft as YAML for people: each value with its origin beside it, and on top what is left to do.

Enters: a draft. Leaves: the text of a recipe.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import yaml

from luthier.recipe.imports.draft import Draft, Told
from luthier.recipe.sections import Recipe

FIRST = ("name", "type", "train")
"""Fields that open their section."""


def nested(values: Mapping[str, Told]) -> dict[str, Any]:
    """Dotted paths as sections, in the order of the schema."""
    found: dict[str, Any] = {}
    for section in Recipe.model_fields:
        inside = {path.partition(".")[2]: told.value for path, told in values.items() if path.partition(".")[0] == section}
        if inside:
            found[section] = dict(sorted(inside.items(), key=lambda item: FIRST.index(item[0]) if item[0] in FIRST else len(FIRST)))
    return found


def written(draft: Draft) -> str:
    """The recipe with comments."""
    lines = [on_one_line(f"# From {draft.file.name}, a file of {draft.tool}, by luthier import.")]
    for title, items in (("To fill in", draft.to_fill), ("Not taken over", draft.lost)):
        if items:
            lines += ["#", f"# {title}:"]
            lines += [
                f"#   {on_one_line(left.key)}{'' if left.value is None else f' ({_flow(left.value)})'}: {on_one_line(left.why)}"
                for left in items
            ]
    if draft.unneeded:
        lines += ["#", "# Not needed here:", *_wrapped(sorted({on_one_line(name) for name in draft.unneeded}))]
    return "\n".join([*lines, *sections(draft.values)]) + "\n"


def sections(values: Mapping[str, Told]) -> list[str]:
    """The lines of a recipe, each value with its origin beside it."""
    lines: list[str] = []
    for section, fields in nested(values).items():
        lines.append(f"{section}:")
        texts = {f"  {name}: {_flow(value)}": values[f"{section}.{name}"].origin for name, value in fields.items()}
        width = max(len(t) for t in texts if len(t) < 60) if any(len(t) < 60 for t in texts) else 0
        lines += [f"{text:<{width}}  # {on_one_line(origin)}" for text, origin in texts.items()]
    return lines


def on_one_line(text: str) -> str:
    """A text that stays on its line, whatever it holds."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())


def _flow(value: Any) -> str:
    """A value as YAML on one line."""
    text = yaml.safe_dump(value, default_flow_style=True, allow_unicode=True, width=1 << 20, sort_keys=False)
    text = text.removesuffix("\n").removesuffix("\n...").strip()
    return json.dumps(value, default=str) if len(text.splitlines()) > 1 else text


def _wrapped(names: list[str], *, width: int = 110) -> list[str]:
    lines, line = [], "#  "
    for i, name in enumerate(names):
        word = f" {name}" + ("," if i < len(names) - 1 else "")
        if len(line) + len(word) > width:
            lines.append(line)
            line = "#  "
        line += word
    return [*lines, line]
