"""Rows to comparisons: the formats in which people's preferences come, recognised and checked.

Enters: a row in one of the formats: `pairs` (chosen and rejected, with or without prompt), `ranked` (prompt and completions,
best first or with ratings), `unpaired` (completion, with or without prompt, and a label that says whether it is good), `openai`
(input, preferred_output, non_preferred_output). Leaves: a prompt with its rated answers, or the reason why the row is none.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from luthier.data.rows import Row, Rows
from luthier.errors import DataError
from luthier.registry import nearest
from luthier.tasks.conversation import Conversation, conversation

FORMATS: dict[str, tuple[str, ...]] = {
    "openai": ("input", "preferred_output", "non_preferred_output"),
    "pairs": ("chosen", "rejected"),
    "ranked": ("prompt", "completions"),
    "unpaired": ("completion", "label"),
}
"""format -> the columns it cannot be without, in the order in which they are looked for."""
READ: dict[str, tuple[str, ...]] = {
    "openai": (),
    "pairs": ("prompt", "chosen", "rejected", "system", "tools"),
    "ranked": ("prompt", "completions", "ratings", "system", "tools"),
    "unpaired": ("prompt", "completion", "label", "system", "tools"),
}
"""format -> what it reads that may have a column of another name."""
GOOD = {"true", "1", "good", "yes", "up", "thumbs_up", "like", "desirable", "+1", "👍"}
BAD = {"false", "0", "bad", "no", "down", "thumbs_down", "dislike", "undesirable", "-1", "👎"}
SPEAKERS = re.compile(r"\n\n(Human|Assistant):")
"""How texts that hold a whole conversation mark its turns (Bai et al. 2022)."""


class Comparison(NamedTuple):
    """What comes before an answer, and the answers, each with its rating; higher is better, and only the order counts."""

    prompt: list[dict[str, Any]]
    tools: list[Any] | None
    answers: tuple[list[dict[str, Any]], ...]
    ratings: tuple[float, ...]
    margin: float = 0.0
    """By how much the best should at least be ahead."""


def recognise(rows: Sequence[Row], names: Mapping[Any, str]) -> str:
    """The format of a data set, by its columns. Raises DataError where it is none of the known ones."""
    columns = dict.fromkeys(c for row in rows[:200] for c in row.values)
    for form, needed in FORMATS.items():
        if all(names.get(n, n) in columns for n in needed):
            return form
    wanted = "; ".join(f"{form}: {', '.join(needed)}" for form, needed in FORMATS.items())
    raise DataError(
        f"the columns {', '.join(map(repr, list(columns)[:12]))} are no format of preferences known here",
        where="task.format",
        remedy=f"the formats and their columns are {wanted}; name other columns with task.columns, e.g. chosen: better",
    )


def need_named(names: Mapping[Any, str], form: str, parts: Iterable[Rows]) -> None:
    """Raise DataError where `task.columns` names a column that no row has: ratings that are misspelt would be none."""
    columns = dict.fromkeys(c for part in parts for row in part.rows for c in row.values)
    for role, column in names.items():
        if columns and role in READ[form] and column not in columns:
            guess = nearest(column, columns)
            raise DataError(
                f"there is no column {column!r}",
                where=f"task.columns.{role}",
                remedy=(f"did you mean {guess!r}? " if guess else "") + f"the columns are: {', '.join(map(repr, list(columns)[:20]))}",
            )


def comparison(
    values: Mapping[str, Any], form: str, *, names: Mapping[Any, str], system: str | None, threshold: float | None
) -> Comparison | str:
    """The row's comparison, or why it is none."""

    def cell(name: str) -> Any:
        return values.get(names.get(name, name))

    if form == "openai":
        asked = _read(values.get("input"))
        if not isinstance(asked, Mapping):
            return "input: is not an object with messages"
        answers = [("preferred_output", values.get("preferred_output")), ("non_preferred_output", values.get("non_preferred_output"))]
        extra = {"tools": asked.get("tools")}
        return _compared(asked.get("messages"), answers, (1.0, 0.0), extra, system)
    extra = {"tools": cell("tools"), "system": cell("system")}
    if form == "pairs":
        return _compared(cell("prompt"), [(n, cell(n)) for n in ("chosen", "rejected")], (1.0, 0.0), extra, system)
    if form == "unpaired":
        good = _good(cell("label"), threshold)
        if isinstance(good, str):
            return good
        return _compared(cell("prompt"), [("completion", cell("completion"))], (float(good),), extra, system)
    several = _read(cell("completions"))
    if not isinstance(several, list) or len(several) < 2:
        return "completions: is not a list of two or more"
    ratings = _ratings(_read(cell("ratings")), len(several), threshold)
    if isinstance(ratings, str):
        return ratings
    return _compared(cell("prompt"), [(f"completion {i}", c) for i, c in enumerate(several, 1)], ratings, extra, system)


def question(value: Any, *, tools: Any, first: Any, system: str | None) -> Conversation | str:
    """What is asked: a text or messages, with the row's tools and its system message `first`; or why it is nothing to answer."""
    asked = _read_turns(value)
    if asked in (None, "", []):
        return "the prompt is empty"
    turns = _turns(asked, "user")
    if _role(turns[-1]) == "assistant":
        return "the prompt ends with an answer"
    whole = {"messages": [*turns, {"role": "assistant", "content": "-"}], "tools": tools, "system": first}
    found = conversation(whole, "messages", names={}, system=system)
    return found if isinstance(found, str) else Conversation(found.messages[:-1], found.tools)


def unrated(values: Mapping[str, Any], *, names: Mapping[Any, str], system: str | None) -> Comparison | str:
    """What a row asks to be judged: a pair, or answers that nobody has rated (then without ratings); or why there is nothing.

    The columns are those of the formats, or `messages`, of which the last is the answer.
    """

    def cell(name: str) -> Any:
        return values.get(names.get(name, name))

    form = next((f for f in ("openai", "pairs") if all(cell(n) is not None for n in FORMATS[f])), None)
    if form is not None:
        return comparison(values, form, names=names, system=system, threshold=None)
    extra = {"tools": cell("tools"), "system": cell("system")}
    asked, several = cell("prompt"), _read(cell("completions"))
    if cell("completion") is not None:
        answers = [("completion", cell("completion"))]
    elif isinstance(several, list) and several:
        answers = [(f"completion {i}", c) for i, c in enumerate(several, 1)]
    elif (talk := values.get("messages")) is not None:
        asked, answers = None, [("messages", talk)]
    else:
        return "holds no answer: give prompt and completion, completions, chosen and rejected, or messages"
    silent = {i: a for i, (_, a) in enumerate(answers) if isinstance(a, str) and not a.strip()}
    found = _compared(asked, [(n, "." if i in silent else a) for i, (n, a) in enumerate(answers)], (), extra, system)
    if isinstance(found, str):
        return found
    # who says nothing when asked is judged for it all the same
    judged = [[{"role": "assistant", "content": silent[i]}] if i in silent else a for i, a in enumerate(found.answers)]
    return found._replace(answers=tuple(judged))


def _compared(
    asked: Any, answers: Sequence[tuple[str, Any]], ratings: tuple[float, ...], extra: Mapping[str, Any], system: str | None
) -> Comparison | str:
    """The prompt and the answers in messages, checked one by one and against each other."""
    asked = _read_turns(asked)
    prompt = None if asked in (None, "", []) else _turns(asked, "user")
    whole: list[list[Any]] = []
    for name, value in answers:
        value = _read_turns(value)
        if value is None or value == [] or (isinstance(value, str) and not value.strip()):
            return f"{name} is empty"
        turns = _turns(value, "assistant")
        if prompt is None and isinstance(value, str) and len(turns) == 1:
            return "has no prompt: its answers are texts without turns, and there is no column for what was asked"
        whole.append(turns)
    if prompt is None or _begins_anew(whole[0]):
        shared = _shared(whole)
        if prompt is not None and not _same_words(prompt, whole[0][: len(shared)]):
            return f"the prompts differ: {answers[0][0]} begins with another one than the column prompt"
        prompt, whole = shared, [w[len(shared) :] for w in whole]
        if len(whole) > 1 and not all(whole):
            return f"{answers[0][0]} equals {answers[1][0]}" if not any(whole) else "one answer is the beginning of another"
        if len(whole) > 1 and any(_role(w[0]) != "assistant" for w in whole):
            return "the prompts differ inside the pair"
    return _checked(prompt, whole, [n for n, _ in answers], ratings, extra, system)


def _checked(
    prompt: list[Any], whole: list[list[Any]], names: list[str], ratings: tuple[float, ...], extra: Mapping[str, Any], system: str | None
) -> Comparison | str:
    found: list[Conversation] = []
    for name, answer in zip(names, whole, strict=True):
        made = conversation({"messages": [*prompt, *answer], **extra}, "messages", names={}, system=system)
        if isinstance(made, str):
            return f"{name}: {made}"
        if made.messages[-1]["role"] != "assistant":
            return f"{name}: does not end with an answer"
        found.append(made)
    sizes = {len(f.messages) - len(a) for f, a in zip(found, whole, strict=True)}
    size = sizes.pop()
    said = [f.messages[size:] for f in found]
    for i, answer in enumerate(said):
        for j in range(i):
            if ratings and answer == said[j] and ratings[i] != ratings[j]:
                return f"{names[j]} equals {names[i]}"
    if len(ratings) > 1 and len(set(ratings)) == 1:
        return "all its answers are rated alike: none is preferred"
    return Comparison(found[0].messages[:size], found[0].tools, tuple(said), ratings)


def _read(value: Any) -> Any:
    """A cell; a list or object that is written as JSON is read."""
    if isinstance(value, str) and value.lstrip()[:1] in ("[", "{"):
        try:
            read = json.loads(value)
        except (ValueError, RecursionError):
            return value
        return read if isinstance(read, (list, dict)) else value
    return value


def _read_turns(value: Any) -> Any:
    """A cell; messages that are written as JSON are read, JSON that somebody asked for or answered with is a text."""
    read = _read(value)
    listed = read if isinstance(read, list) else [read]
    spoken = all(isinstance(m, Mapping) and ("role" in m or "from" in m) for m in listed)
    return read if read is value or spoken else value


def _turns(value: Any, role: str) -> list[Any]:
    """Messages: those of a list, the turns that a text marks, or the text as one of `role`."""
    if isinstance(value, list):
        return value
    if isinstance(value, Mapping):
        return [value]
    if isinstance(value, str) and (text := _marked(value)):
        parts = SPEAKERS.split(text)[1:]
        spoken = zip(parts[::2], parts[1::2], strict=True)
        said = [{"role": "user" if who == "Human" else "assistant", "content": text.strip()} for who, text in spoken]
        return said[:-1] if said[-1]["content"] == "" and role == "user" else said
    return [{"role": role, "content": value}]


def _marked(value: str) -> str:
    """A text that marks its turns, from the first mark on; nothing for another.

    The blank line may be missing before the first of several marks.
    """
    if SPEAKERS.match(value):
        return value
    begun = f"\n\n{value.lstrip()}"
    return begun if SPEAKERS.match(begun) and SPEAKERS.search(value) else ""


def _role(message: Any) -> Any:
    named = message.get("role", message.get("from")) if isinstance(message, Mapping) else None
    return "assistant" if named in ("gpt", "model", "bot") else named


def _begins_anew(turns: list[Any]) -> bool:
    """Whether an answer is a whole conversation."""
    return len(turns) > 1 and _role(turns[0]) in ("user", "human", "system", "developer")


def _shared(whole: list[list[Any]]) -> list[Any]:
    """What comes before the answers: the turns that all begin with; of one conversation, all before its last turn."""
    if len(whole) == 1:
        return whole[0][:-1]
    count = 0
    while all(len(w) > count for w in whole) and all(w[count] == whole[0][count] for w in whole):
        count += 1
    return whole[0][:count]


def _same_words(prompt: list[Any], shared: list[Any]) -> bool:
    """Whether the column prompt says what the conversations begin with, or the last thing that was asked."""
    words = [[m.get("content") for m in part if isinstance(m, Mapping)] for part in (prompt, shared)]
    return bool(words[1]) and words[1][-len(words[0]) :] == words[0]


def _good(label: Any, threshold: float | None) -> bool | str:
    """Whether a label calls an answer good."""
    if label is None or label == "":
        return "has no label"
    if threshold is not None and not isinstance(label, bool):
        rating = _number(label)
        return "label: is no number" if rating is None else rating >= threshold
    word = str(label).strip().lower().removesuffix(".0")
    if word in GOOD or word in BAD:
        return word in GOOD
    return f"label: {label!r} is neither good nor bad; where labels are ratings, set task.threshold"


def _ratings(given: Any, count: int, threshold: float | None) -> tuple[float, ...] | str:
    """A rating for each of `count` answers; best first where there are none."""
    if given is None or given == "":
        return tuple(float(count - 1 - i) for i in range(count)) if threshold is None else "has no ratings, which task.threshold is for"
    if not isinstance(given, list) or len(given) != count:
        return f"ratings: is not a list of {count} numbers, one for each completion"
    numbers = [n for v in given if (n := _number(v)) is not None]
    if len(numbers) != count:
        return "ratings: holds something else than finite numbers"
    return tuple(numbers) if threshold is None else tuple(float(n >= threshold) for n in numbers)


def _number(value: Any) -> float | None:
    try:
        found = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return found if math.isfinite(found) else None
