"""OpenAI's fine-tuning file as a recipe: one conversation, or two answers that are compared, a line. Luthier reads both as they are.

Enters: the file. Leaves: a recipe for chat or preferences with that file as `data.train`. The model is the user's to choose.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator
from typing import Any

from luthier.errors import Fault, RecipeError
from luthier.recipe.imports.draft import Draft

NAME = "OpenAI"
LOOKED_AT = 200
"""Lines whose keys are looked at."""
HANDLED = ("messages", "tools", "prompt", "completion")
COMPARED = ("input", "preferred_output", "non_preferred_output")
"""Keys of a line with two answers; what was asked, with its tools, stands in the first."""


def first_rows(text: str) -> Iterator[dict[str, Any]]:
    """The first lines that are JSON objects."""
    for line in [x for x in text.split("\n", LOOKED_AT + 1)[:LOOKED_AT] if x.strip()]:
        try:
            value = json.loads(line)
        except ValueError:
            return
        if not isinstance(value, dict):
            return
        yield value


def read(draft: Draft, text: str) -> None:
    """Fill the draft from the file's text."""
    rows = list(first_rows(text))
    keys = dict.fromkeys(k for row in rows for k in row)
    draft.put("data.train", draft.beside(draft.file), "the file")
    if "preferred_output" in keys or "non_preferred_output" in keys:
        _comparisons(draft, rows, keys)
    else:
        _conversations(draft, rows, keys)
    draft.fill("model.name", "starter", "choose a model that can be downloaded; starter is Luthier's own small one")
    draft.put("method.type", "lora", "chosen here: adapters suit most conversations")


def _comparisons(draft: Draft, rows: list[dict[str, Any]], keys: Collection[str]) -> None:
    """Two answers to what was asked, of which one is preferred."""
    if not set(COMPARED) <= set(keys):
        raise RecipeError([Fault(f"its lines do not hold {', '.join(COMPARED)}", str(draft.file))])
    draft.put("task.type", "preference", "preferred_output, non_preferred_output")
    draft.put("task.format", "openai", "the keys of its lines")
    for key in keys:
        if key not in COMPARED:
            draft.leave(key, "is not read", value="in some lines")
    asked = [row["input"] for row in rows if isinstance(row.get("input"), dict)]
    for key in dict.fromkeys(k for a in asked for k in a):
        if key == "parallel_tool_calls":
            draft.unneeded.append(f"input.{key}")
        elif key not in ("messages", "tools"):
            draft.leave(f"input.{key}", "is not read", value="in some lines")
    _messages(draft, [a.get("messages") for a in asked] + [row.get(key) for row in rows for key in COMPARED[1:]])


def _conversations(draft: Draft, rows: list[dict[str, Any]], keys: Collection[str]) -> None:
    """Conversations, or prompts and completions."""
    pairs = "messages" not in keys
    if pairs and not {"prompt", "completion"} <= set(keys):
        raise RecipeError([Fault("its lines hold neither messages nor prompt and completion", str(draft.file))])
    draft.put("task.type", "chat", "messages" if not pairs else "prompt, completion")
    draft.put("task.format", "prompt_completion" if pairs else "messages", "the keys of its lines")
    for key in keys:
        if key == "functions":
            draft.leave(key, "is the old form of tools: write it as tools", value="in some lines")
        elif key == "parallel_tool_calls":
            draft.unneeded.append(key)
        elif key not in HANDLED:
            draft.leave(key, "is not read", value="in some lines")
    if any(m.get("weight") == 0 for m in _messages(draft, [row.get("messages") for row in rows])):
        draft.leave("messages[].weight", "all assistant turns are learned, or the last: task.graded", value=0)


def _messages(draft: Draft, talks: list[Any]) -> list[dict[str, Any]]:
    """The messages of lists of them; what no message may hold is left."""
    messages = [m for talk in talks if isinstance(talk, list) for m in talk if isinstance(m, dict)]
    if any(isinstance(m.get("content"), list) for m in messages):
        draft.leave("messages[].content", "parts such as images are not read: such rows are quarantined", value="a list")
    if any("function_call" in m for m in messages):
        draft.leave("messages[].function_call", "is the old form of tool_calls: write it as tool_calls", value="in some lines")
    return messages
