"""Rows of chat logs to turns: each answer with what its reader did about it.

Enters: a row as chat applications keep or export it: messages in a list (with `rating`, `feedback` or `thumbs`; `edited` or
`original`; `regenerated`), a tree of messages (ChatGPT's `mapping`, Open WebUI's `history`), or a question and an answer in columns.
Leaves: turns, or the reason why the row is none.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, NamedTuple

from luthier.tasks.comparisons import BAD, GOOD
from luthier.tasks.conversation import conversation
from luthier.tasks.language import text_fault

RATINGS = ("rating", "feedback", "thumbs", "thumb", "vote", "annotation", "score", "label")
THROWN = ("regenerated", "rejected", "alternatives", "candidates")
ANSWERS = ("response", "completion", "answer", "output")
WORDS_GOOD = GOOD | {"thumbsup", "positive", "upvote", "liked"}
WORDS_BAD = BAD | {"thumbsdown", "negative", "downvote", "disliked"}


class Turn(NamedTuple):
    """An answer: what came before, what was made of it. `rating` is a truth value for a word, a number as it stood, None for none."""

    prompt: list[dict[str, Any]]
    answer: str
    rating: bool | float | None
    edited: str | None
    thrown: tuple[str, ...]


class _Node(NamedTuple):
    """A message of a tree."""

    parent: str | None
    role: str
    text: Any
    said: Mapping[str, Any]


def turns(values: Mapping[str, Any]) -> list[Turn] | str:
    """The answers of a conversation with what was done about them, or why the row is no conversation."""
    chat = values.get("chat") if isinstance(values.get("chat"), Mapping) else values
    assert isinstance(chat, Mapping)
    tree = _tree(chat)
    if tree is not None:
        found = list(_of_tree(*tree))
    else:
        listed = _listed(chat)
        if listed is None:
            return "holds neither messages nor a question with an answer"
        found = list(_of_list(listed, chat))
    checked = []
    for turn in found:
        whole = conversation({"messages": [*turn.prompt, {"role": "assistant", "content": turn.answer}]}, "messages", names={}, system=None)
        if isinstance(whole, str):
            return whole
        if whole.messages[-1].get("tool_calls") or not isinstance(whole.messages[-1]["content"], str):
            continue
        checked.append(turn._replace(prompt=whole.messages[:-1]))
    return checked if checked else "has no answer"


def _listed(chat: Mapping[str, Any]) -> list[Any] | None:
    """The messages of a row; of a question and an answer in columns too."""
    for name in ("messages", "conversations", "conversation"):
        if isinstance(chat.get(name), list):
            return list(chat[name])
    asked, answer = chat.get("prompt", chat.get("question")), next((chat[n] for n in ANSWERS if isinstance(chat.get(n), str)), None)
    if answer is None or text_fault(asked) or not isinstance(asked, str):
        return None
    return [{"role": "user", "content": asked}, {"role": "assistant", "content": answer}]


def _of_list(listed: list[Any], chat: Mapping[str, Any]) -> Iterator[Turn]:
    """What is said of the whole conversation is said of its last answer."""
    answers = [i for i, m in enumerate(listed) if isinstance(m, Mapping) and _role(m) == "assistant"]
    for place in answers:
        message = listed[place]
        said = {**chat, **message} if place == answers[-1] else message
        text = _text(message)
        edited, original = said.get("edited"), said.get("original")
        if isinstance(original, str):  # what stands there is the edit
            text, edited = original, text
        before = [{"role": _role(m), "content": _text(m)} if _plain(m) else m for m in listed[:place]]
        thrown: Any = next((said[n] for n in THROWN if isinstance(said.get(n), list | str)), [])
        texts = (_text(t) for t in ([thrown] if isinstance(thrown, str) else thrown))
        yield Turn(before, text, _rating(said), edited if isinstance(edited, str) else None, tuple(t for t in texts if isinstance(t, str)))


def _name(value: Any) -> str | None:
    """A message's id as the keys of a tree are: a text. None for what cannot be one."""
    return str(value) if isinstance(value, str | int) else None


def _tree(chat: Mapping[str, Any]) -> tuple[dict[str, _Node], str | None] | None:
    """The messages of a tree by id, and the one that the conversation ended with."""
    history = chat.get("history")
    if isinstance(chat.get("mapping"), Mapping):
        nodes = {}
        for name, node in chat["mapping"].items():
            message = node.get("message") if isinstance(node, Mapping) else None
            message = message if isinstance(message, Mapping) else {}
            author = message.get("author")
            role = str(author.get("role")) if isinstance(author, Mapping) else ""
            nodes[str(name)] = _Node(_name(node.get("parent")) if isinstance(node, Mapping) else None, role, _text(message), message)
        return nodes, _name(chat.get("current_node"))
    if isinstance(history, Mapping) and isinstance(history.get("messages"), Mapping):
        kept = {str(name): m for name, m in history["messages"].items() if isinstance(m, Mapping)}
        return {n: _Node(_name(m.get("parentId")), _role(m), _text(m), m) for n, m in kept.items()}, _name(history.get("currentId"))
    return None


def _of_tree(nodes: Mapping[str, _Node], last: str | None) -> Iterator[Turn]:
    """The answers on the way to the last message, and beside each those that it took the place of."""
    place = last if last in nodes else next(reversed(list(nodes)), None)
    path: list[str] = []
    while place is not None and place in nodes and place not in path:
        path.insert(0, place)
        place = nodes[place].parent
    before: list[dict[str, Any]] = []
    for name in path:
        node = nodes[name]
        if not node.role or not isinstance(node.text, str) or not node.text.strip():
            continue
        if _answers(node):
            siblings = [other for n, other in nodes.items() if n != name and other.parent == node.parent and _answers(other)]
            yield Turn(list(before), node.text, _rating(node.said), None, tuple(str(s.text) for s in siblings))
            yield from (Turn(list(before), str(s.text), _rating(s.said), None, ()) for s in siblings)
        before.append({"role": node.role, "content": node.text})


def _answers(node: _Node) -> bool:
    return node.role == "assistant" and isinstance(node.text, str) and bool(node.text.strip())


def _role(message: Any) -> str:
    named = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
    return "assistant" if named in ("assistant", "gpt", "model", "bot") else str(named)


def _plain(message: Any) -> bool:
    return isinstance(message, Mapping) and not message.get("tool_calls") and _role(message) in ("user", "assistant", "system", "human")


def _text(message: Any) -> Any:
    """The words of a message: a text, the value of ShareGPT, or parts."""
    if not isinstance(message, Mapping):
        return message
    content = message.get("content", message.get("value"))
    if isinstance(content, Mapping):
        content = content.get("parts", content.get("text"))
    if isinstance(content, list):
        parts = [p.get("text") if isinstance(p, Mapping) else p for p in content]
        content = "".join(map(str, parts)) if all(isinstance(p, str) for p in parts) else None
    return content


def _rating(said: Mapping[str, Any]) -> bool | float | None:
    """What a message is rated with, wherever it stands."""
    for name in RATINGS:
        value = said.get(name)
        if isinstance(value, Mapping):
            value = value.get("rating", value.get("value"))
        if isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            return _float(value)
        if isinstance(value, str) and value.strip():
            word = value.strip().lower().replace("-", "_") if not value.strip().lstrip("+-").isdigit() else value.strip()
            try:
                return float(word)
            except ValueError:
                if word in WORDS_GOOD or word.replace("_", "") in WORDS_GOOD:
                    return True
                if word in WORDS_BAD or word.replace("_", "") in WORDS_BAD:
                    return False
    return None


def _float(value: int | float) -> float:
    try:
        return float(value)
    except OverflowError:  # a whole number beyond all floats
        return math.inf


def are_thumbs(found: Iterable[bool | float | None]) -> bool:
    """Whether the numbers among ratings are thumbs: only 1 and -1, or 1 and 0."""
    return {v for v in found if v is not None and not isinstance(v, bool)} <= {-1.0, 0.0, 1.0}
