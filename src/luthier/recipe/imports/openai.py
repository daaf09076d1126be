"""OpenAI's fine-tuning file as a recipe: one conversation a line, which Luthier reads as it is.

Enters: the file. Leaves: a chat recipe with that file as `data.train`. The model is the user's to choose.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from luthier.errors import Fault, RecipeError
from luthier.recipe.imports.draft import Draft

NAME = "OpenAI"
LOOKED_AT = 200
"""Lines whose keys are looked at."""
HANDLED = ("messages", "tools", "prompt", "completion")


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
    if "preferred_output" in keys or "non_preferred_output" in keys:
        where = str(draft.file)
        raise RecipeError([Fault("holds preferences, which Luthier does not train on yet", where, "import a file of messages")])
    pairs = "messages" not in keys
    if pairs and not {"prompt", "completion"} <= set(keys):
        raise RecipeError([Fault("its lines hold neither messages nor prompt and completion", str(draft.file))])
    draft.put("data.train", draft.beside(draft.file), "the file")
    draft.put("task.type", "chat", "messages" if not pairs else "prompt, completion")
    draft.put("task.format", "prompt_completion" if pairs else "messages", "the keys of its lines")
    draft.fill("model.name", "starter", "choose a model that can be downloaded; starter is Luthier's own small one")
    draft.put("method.type", "lora", "chosen here: adapters suit most conversations")
    for key in keys:
        if key == "functions":
            draft.leave(key, "is the old form of tools: write it as tools", value="in some lines")
        elif key == "parallel_tool_calls":
            draft.unneeded.append(key)
        elif key not in HANDLED:
            draft.leave(key, "is not read", value="in some lines")
    messages = [m for row in rows for m in row.get("messages") or () if isinstance(m, dict)]
    if any(m.get("weight") == 0 for m in messages):
        draft.leave("messages[].weight", "all assistant turns are learned, or the last: task.graded", value=0)
    if any(isinstance(m.get("content"), list) for m in messages):
        draft.leave("messages[].content", "parts such as images are not read: such rows are quarantined", value="a list")
    if any("function_call" in m for m in messages):
        draft.leave("messages[].function_call", "is the old form of tool_calls: write it as tool_calls", value="in some lines")
