"""A foreign file to a recipe: whose it is, what it says, and the recipe that says the same.

Enters: a file of Axolotl, LLaMA-Factory, TRL or OpenAI. Leaves: an `Imported`: a recipe that Luthier's schema accepts,
as commented YAML, and what became of every key.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from luthier.errors import Fault, RecipeError
from luthier.recipe.imports import axolotl, llamafactory, openai, trl
from luthier.recipe.imports.draft import Draft, Left
from luthier.recipe.imports.write import nested, written
from luthier.recipe.load import load_recipe, parse_yaml
from luthier.recipe.sections import Recipe

Tool = Literal["axolotl", "llamafactory", "trl", "openai"]
CONFIGURED: dict[Tool, Any] = {"axolotl": axolotl, "llamafactory": llamafactory, "trl": trl}
"""The tools whose files are keys and values."""


@dataclass(frozen=True)
class Imported:
    """What an import gave. `text` is the recipe with comments, `recipe` the same, checked."""

    tool: str
    recipe: Recipe
    text: str
    taken: int
    to_fill: tuple[Left, ...]
    lost: tuple[Left, ...]
    unneeded: tuple[str, ...]


def import_file(file: Path, *, tool: Tool | None = None, folder: Path | None = None) -> Imported:
    """Turn a file into a recipe that will lie in `folder` (the working folder where None).

    Raises RecipeError for a file that cannot be read, that no tool is known to write, or that asks for
    something that Luthier does not do.
    """
    text = _text(file)
    if tool == "openai" or (tool is None and _is_openai(file, text)):
        draft = Draft(openai.NAME, {}, file, folder or Path.cwd())
        openai.read(draft, text)
    else:
        keys = _keys(file, text)
        module = CONFIGURED[tool or _whose(keys, file)]
        draft = Draft(module.NAME, keys, file, folder or Path.cwd())
        module.read(draft)
    recipe = _checked(draft)
    return Imported(
        draft.tool, recipe, written(draft), len(draft.values), tuple(draft.to_fill), tuple(draft.lost), tuple(sorted(set(draft.unneeded)))
    )


def _checked(draft: Draft) -> Recipe:
    """The recipe, by Luthier's own schema; faults name the key that a value came from."""
    try:
        return load_recipe(nested(draft.values)).recipe
    except RecipeError as error:
        faults = []
        for fault in error.faults:
            told = draft.values.get(fault.where or "")
            where = f"{draft.file}: {told.origin}" if told else f"{draft.file}: {fault.where}"
            faults.append(Fault(f"{fault.message}, for {fault.where}", where, fault.remedy))
        raise RecipeError(faults) from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise RecipeError([Fault(f"cannot be read: {what}", str(file), "give a YAML, JSON or JSONL file")]) from None


def _is_openai(file: Path, text: str) -> bool:
    """Whether the lines are JSON objects, several of them or of the shape of a conversation or a comparison."""
    rows = list(openai.first_rows(text))
    return bool(rows) and (file.suffix == ".jsonl" or "messages" in rows[0] or "preferred_output" in rows[0])


def _keys(file: Path, text: str) -> Mapping[str, Any]:
    if file.suffix == ".json":
        try:
            found = json.loads(text)
        except ValueError as error:
            raise RecipeError([Fault(f"not JSON: {error}", str(file))]) from None
    else:
        found = parse_yaml(text, where=str(file))
    if not isinstance(found, dict):
        raise RecipeError([Fault("holds no keys and values", str(file), REMEDY)])
    return {str(k): v for k, v in found.items()}


REMEDY = "files of Axolotl, LLaMA-Factory and TRL (YAML or JSON) and OpenAI's fine-tuning JSONL can be imported"


def _whose(keys: Mapping[str, Any], file: Path) -> Tool:
    """The tool most of whose own keys the file has."""
    if "data" in keys and set(keys) <= set(Recipe.model_fields):
        raise RecipeError([Fault("is a recipe of Luthier already", str(file), f"luthier check {file}")])
    found: dict[Tool, int] = {tool: len(module.MARKS & set(keys)) for tool, module in CONFIGURED.items()}
    best = max(found.values())
    if best == 0:
        if (trl.SHARED | trl.SIGNS) & set(keys):
            return "trl"
        raise RecipeError([Fault("is of no tool that is known here", str(file), REMEDY)])
    likely = [tool for tool, count in found.items() if count == best]
    if len(likely) > 1:
        raise RecipeError([Fault(f"may be of {' or '.join(likely)}", str(file), f"say which: --from {likely[0]}")])
    return likely[0]
