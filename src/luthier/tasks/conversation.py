"""Rows to conversations: the formats that data sets use, recognised and checked.

Enters: a row in one of the formats: `messages` (OpenAI, TRL), `sharegpt` (`conversations` of from and
value), `prompt_completion`, `alpaca` (instruction, input, output). Leaves: messages with roles system,
user, assistant and tool, or the reason why the row is none.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from luthier.data.rows import Row
from luthier.errors import DataError
from luthier.tasks.language import text_fault

FORMATS: dict[str, tuple[str, ...]] = {
    "messages": ("messages",),
    "sharegpt": ("conversations",),
    "prompt_completion": ("prompt", "completion"),
    "alpaca": ("instruction", "output"),
}
"""format -> the columns it cannot be without, in the order in which they are looked for."""
ROLES = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "assistant": "assistant", "gpt": "assistant",
    "model": "assistant", "bot": "assistant", "tool": "tool", "function": "tool", "observation": "tool", "function_call": "call",
}  # fmt: skip
FOLLOWS = {
    None: ("system", "user"),
    "system": ("user",),
    "user": ("assistant",),
    "assistant": ("user",),
    "call": ("tool",),
    "tool": ("tool", "assistant"),
}
DEEPEST = 64
"""Levels of lists and objects in calls and tools."""


class Conversation(NamedTuple):
    """Messages in the shape that chat templates take, and the tools they may call."""

    messages: list[dict[str, Any]]
    tools: list[Any] | None


def recognise(rows: Sequence[Row], names: Mapping[Any, str]) -> str:
    """The format of a data set, by its columns. Raises DataError where it is none of the known ones."""
    columns = dict.fromkeys(c for row in rows[:200] for c in row.values)
    for form, needed in FORMATS.items():
        if all(column_of(n, names) in columns for n in needed):
            return form
    wanted = "; ".join(f"{form}: {', '.join(needed)}" for form, needed in FORMATS.items())
    raise DataError(
        f"the columns {', '.join(map(repr, list(columns)[:12]))} are no chat format known here",
        where="task.format",
        remedy=f"the formats and their columns are {wanted}; name other columns with task.columns, e.g. prompt: question",
    )


def column_of(name: str, names: Mapping[Any, str]) -> str:
    """The column that holds a part of the format, by the recipe's own names."""
    return names.get("messages" if name == "conversations" else name, name)


def conversation(values: Mapping[str, Any], form: str, *, names: Mapping[Any, str], system: str | None) -> Conversation | str:
    """The row's conversation, or why it is none."""
    if form in ("messages", "sharegpt"):
        listed = _listed(values.get(column_of(FORMATS[form][0], names)))
        found = listed if isinstance(listed, str) else _messages(listed)
    elif form == "prompt_completion":
        found = _pair(values.get(column_of("prompt", names)), values.get(column_of("completion", names)))
    else:
        extra = values.get(column_of("input", names))
        asked = values.get(column_of("instruction", names))
        if isinstance(asked, str) and isinstance(extra, str) and extra.strip():
            asked = f"{asked}\n\n{extra}"
        found = _pair(asked, values.get(column_of("output", names)))
    if isinstance(found, str):
        return found
    first = values.get(column_of("system", names))
    given = first if isinstance(first, str) and first.strip() else system
    if given and found[0]["role"] != "system":
        found = [{"role": "system", "content": given}, *found]
    tools = _tools(values.get(column_of("tools", names)))
    if isinstance(tools, str):
        return f"tools: {tools}"
    fault = _order_fault(found) or _plain_fault(found) or _plain_fault(tools)
    return fault or Conversation(found, tools or None)


def texts_in(value: Any) -> Iterator[str]:
    """Every text in a message, a call or a tool, names and keys too."""
    waiting = [value]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            yield item
        elif isinstance(item, Mapping):
            waiting += [*item, *item.values()]
        elif isinstance(item, list):
            waiting += item


def _plain_fault(value: Any) -> str | None:
    """Why a template could not write a value, or a tokenizer read it; None where they can."""
    waiting = [(value, 0)]
    while waiting:
        item, depth = waiting.pop()
        if isinstance(item, str):
            fault = text_fault(item) if item.strip() else None
            if fault:
                return fault
        elif depth > DEEPEST:
            return f"nested deeper than {DEEPEST} levels"
        elif isinstance(item, Mapping):
            waiting += [(part, depth + 1) for pair in item.items() for part in pair]
        elif isinstance(item, list):
            waiting += [(part, depth + 1) for part in item]
        elif not isinstance(item, (int, float, type(None))):
            return f"holds a {type(item).__name__}, which JSON does not have"
    return None


def _tools(value: Any) -> list[Any] | str:
    if isinstance(value, str):
        if not value.strip():
            return []
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return "text that is not JSON"
    if isinstance(value, Mapping):
        value = [value]
    if value is not None and not (isinstance(value, list) and all(isinstance(v, Mapping) for v in value)):
        return "not a list of objects"
    return value or []


def _listed(value: Any) -> list[Any] | str:
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            return "its messages are text, and not JSON"
    if not isinstance(value, list):
        return "has no list of messages"
    return value or "has no messages"


def _pair(asked: Any, answer: Any) -> list[dict[str, Any]] | str:
    """A prompt and its completion: two texts, or two lists of messages."""
    if isinstance(asked, list) and isinstance(answer, list):
        return _messages([*asked, *answer])
    for name, value in (("prompt", asked), ("completion", answer)):
        fault = text_fault(value)
        if fault:
            return f"{name}: {fault}"
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _messages(listed: Sequence[Any]) -> list[dict[str, Any]] | str:
    found: list[dict[str, Any]] = []
    for number, item in enumerate(listed, 1):
        message = _message(item)
        if isinstance(message, str):
            return f"message {number}: {message}"
        found.append(message)
    return found


def _message(item: Any) -> dict[str, Any] | str:
    if not isinstance(item, Mapping):
        return "is not an object"
    named = item.get("from") if item.get("role") is None else item["role"]
    role = ROLES.get(str(named).lower())
    if role is None:
        return f"unknown role {named!r}"
    content = item.get("value") if item.get("content") is None else item["content"]
    if isinstance(content, list) and all(isinstance(p, Mapping) and p.get("type") == "text" for p in content):
        content = "".join(str(p.get("text", "")) for p in content)
    listed = item.get("tool_calls") or []
    if not isinstance(listed, list):
        return "its tool calls are no list"
    calls = [_call(c) for c in listed]
    if role == "call":
        called = _from_text(content)
        if called is None:
            return "a call that is not JSON with a name"
        role, content, calls = "assistant", None, [called]
    if any(c is None for c in calls):
        return "a tool call without a function name"
    if calls and role != "assistant":
        return f"a tool call by the {role}"
    if calls and content in (None, ""):
        content = None
    else:
        fault = text_fault(content)
        if fault:
            return fault.replace("text", "content", 1)
    message: dict[str, Any] = {"role": role, "content": content}
    if calls:
        message["tool_calls"] = calls
    for name in ("name", "tool_call_id", "reasoning_content"):
        if isinstance(item.get(name), str):
            message[name] = item[name]
    return message


def _call(call: Any) -> dict[str, Any] | None:
    if not isinstance(call, Mapping):
        return None
    function = call.get("function", call)
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        return None
    made = {"type": "function", "function": {"name": function["name"], "arguments": function.get("arguments") or {}}}
    return {"id": call["id"], **made} if isinstance(call.get("id"), str) else made


def _from_text(content: Any) -> dict[str, Any] | None:
    try:
        return _call(json.loads(content))
    except (TypeError, ValueError, RecursionError):
        return None


def _order_fault(messages: Sequence[Mapping[str, Any]]) -> str | None:
    """Why the turns cannot follow each other like this; None where they can."""
    before: str | None = None
    for number, message in enumerate(messages, 1):
        if message["role"] not in FOLLOWS[before]:
            if before == "call":
                return f"message {number}: a tool call without its result"
            return f"roles out of order: message {number} is {message['role']}" + (f" after {before}" if before else "")
        before = "call" if message.get("tool_calls") else message["role"]
    if not any(m["role"] == "assistant" for m in messages):
        return "no assistant turn to learn from"
    return None
