"""Labels to and from other tools' files: which format a file is in, its labels into the store, and what became of each.

Enters: a JSON or JSONL file of Label Studio or Argilla, or what a store holds. Leaves: entries, or such a file. Whatever a tool has
that the store does not (boxes, relations, ratings) is counted and left out.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from luthier.data.rows import decode
from luthier.errors import DataError, LuthierError, SpaceError
from luthier.feedback.store import Said, Store, checked_name
from luthier.security.artifacts import write_json
from luthier.workshop.labelling.opinions import Opinions
from luthier.workshop.labelling.question import NAMES, Form, Question, Span

Format = Literal["label-studio", "argilla"]


@dataclass
class Brought:
    """What a file said: the `said`, of how many tasks; what was left out, by reason."""

    format: Format
    tasks: int = 0
    said: list[Said] = field(default_factory=list)
    left_out: Counter[str] = field(default_factory=Counter)
    kept: int = 0
    repeated: int = 0

    def keep(self, store: Store) -> None:
        """Put the labels into the store, all or none; what is there already is not written twice."""
        done = store.extend(self.said)
        self.kept, self.repeated = len(done.entries) - done.repeated, done.repeated

    def add(self, content: Mapping[str, Any], form: Form, value: Any, *, annotator: str, name: str | None, **more: Any) -> None:
        """Note an answer, or why it is none. `name` is the question's; `more` goes into the payload where it is something."""
        question = Question(form, tuple(value) if form == "classes" else (), several=True, named=None if name == NAMES[form] else name)
        try:
            payload = question.skipped() if more.get("skipped") else question.payload(value)
        except LuthierError as error:
            self._leave_out(error)
        else:
            self.say(Said("label", content, annotator, {**payload, **{k: v for k, v in more.items() if v not in (None, False)}}))

    def say(self, said: Said) -> None:
        """Note what was said by somebody who has a name."""
        try:
            self.said.append(said._replace(annotator=checked_name(said.annotator)))
        except LuthierError as error:
            self._leave_out(error)

    def _leave_out(self, error: LuthierError) -> None:
        self.left_out[str(error).partition("\n")[0]] += 1


def bring(path: Path, *, annotator: str | None = None, column: str | None = None, text: bool = False) -> Brought:
    """The labels of a file, to be kept in a store.

    `annotator` stands for everybody whom the file does not name. `column` is the text among a task's data. `text` reads
    Argilla's answers as texts rather than names of classes, which look alike. Raises DataError for a file of neither tool.
    """
    from luthier.workshop.labelling import argilla, label_studio

    tasks = _tasks(path)
    format = _format(tasks, path)
    found = Brought(format, tasks=len(tasks))
    read: Callable[..., None] = label_studio.read if format == "label-studio" else argilla.read
    for task in tasks:
        if isinstance(task, dict):
            read(task, found, annotator=annotator or "imported", column=column, text=text)
        else:
            found.left_out["no task: not an object"] += 1
    if not found.said:
        why = "; ".join(f"{n} {reason}" for reason, n in found.left_out.most_common(3)) or "no task is labelled"
        raise DataError(f"holds no labels for the store: {why}", where=str(path), remedy="export it from the tool with its annotations")
    return found


def send(path: Path, found: Sequence[Opinions], question: Question, *, format: Format) -> int:
    """Write what was said as a file that the tool imports; how many tasks. Raises SpaceError where something is there."""
    from luthier.workshop.labelling import argilla, label_studio

    if path.exists():
        raise SpaceError("is there already", where=str(path), remedy="give another file")
    write = label_studio.task if format == "label-studio" else argilla.record
    write_json(path.resolve(), [write(one, question, number) for number, one in enumerate(found, 1)])
    return len(found)


def text_content(data: Any, column: str | None) -> dict[str, str] | str:
    """What is judged, of a task's data: its text, and a second one beside it; or why there is none."""
    if not isinstance(data, dict):
        return "no data"
    texts = {k: v for k, v in data.items() if isinstance(v, str) and v.strip()}
    name = column or ("text" if "text" in texts else next(iter(texts)) if len(texts) == 1 else None)
    if name not in texts:
        return f"no text in {name!r}" if name else f"several texts, and none is named: {', '.join(list(texts)[:6])} (--column)"
    return {"text": texts[name], **({"text_pair": texts["text_pair"]} if "text_pair" in texts and name != "text_pair" else {})}


def spans_of(found: Any, text: str) -> list[Span] | str:
    """Spans as a tool writes them: start, end, label, and the text of it where that is told; or why they are none.

    Where the text does not stand there, the places were counted in UTF-16 units, as browsers do.
    """
    spans = []
    for one in found:
        start, end, label = one.get("start"), one.get("end"), one.get("label")
        if not (type(start) is int and type(end) is int and isinstance(label, str) and label):
            return "a span without start, end and label"
        told = one.get("text")
        if isinstance(told, str) and text[start:end] != told:
            wide = text.encode("utf-16-le")
            before, inside = (wide[2 * a : 2 * b].decode("utf-16-le", "replace") for a, b in ((0, start), (start, end)))
            start, end = len(before), len(before) + len(inside)
            if text[start:end] != told:
                return "a span whose text does not stand at its place"
        if not 0 <= start < end <= len(text):
            return f"a span from {start} to {end} in a text of {len(text)} characters"
        spans.append(Span(start, end, label))
    return spans


def _tasks(path: Path) -> list[Any]:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check the name") from None
    text, _ = decode(data, path)
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        try:
            whole = [json.loads(line) for line in text.splitlines() if line.strip()]
        except (ValueError, RecursionError):
            raise DataError(f"is not JSON: {error}", where=str(path), remedy="export JSON from the tool") from None
    found = whole if isinstance(whole, list) else whole.get("records", [whole]) if isinstance(whole, dict) else []
    if not isinstance(found, list) or not found:
        raise DataError("holds no list of tasks", where=str(path), remedy="export JSON from Label Studio or Argilla")
    return found


def _format(tasks: Sequence[Any], path: Path) -> Format:
    first = next((t for t in tasks if isinstance(t, dict)), {})
    if "data" in first:
        return "label-studio"
    if "fields" in first:
        return "argilla"
    raise DataError(
        "is of neither Label Studio (data, annotations) nor Argilla (fields, responses)",
        where=str(path),
        remedy="export JSON from one of them (of Label Studio: JSON, not JSON-MIN)",
    )
