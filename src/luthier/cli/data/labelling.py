"""The terminal in which people label: a row beside the guidelines, a key or a line for each answer, lines where input is a pipe."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.markdown import Markdown
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from luthier.cli.keys import Closed, clean, read_key, read_line, read_text
from luthier.errors import DataError

if TYPE_CHECKING:
    from luthier.workshop.labelling.adjudication import Adjudication
    from luthier.workshop.labelling.question import Asked, Question, Span
    from luthier.workshop.labelling.session import Labelling

    Sitting = Labelling | Adjudication

WIDE = 100
"""Columns from which on guidelines stand beside the row; below, they stand above the first one and come with g."""
KEYED = 9
"""Labels up to which one key is an answer."""
STYLES = ("cyan", "green", "magenta", "yellow", "blue", "red")
GENERAL = "b back, s skip, q quit"


class Unfit(Exception):
    """What was typed is no answer; says why."""


def read_guidelines(path: Path) -> str:
    """The text of a file. Raises DataError where it cannot be read."""
    from luthier.data.rows import decode

    try:
        return decode(path.read_bytes(), path)[0]
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", where=str(path), remedy="check --guidelines") from None


def read_labels(given: str) -> tuple[str, ...]:
    """Labels between commas, or of a file with one a line. Raises DataError for one that stands there twice or cannot be shown."""
    path = Path(given)
    if "," not in given and not path.is_file() and (path.suffix or "/" in given):
        raise DataError("no such file", where=given, remedy="give a file with a label a line, or labels between commas")
    try:
        lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else given.split(",")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", where=given, remedy="give a text file with a label a line") from None
    names = [n.strip() for n in lines if n.strip()]
    twice = next((n for n in names if names.count(n) > 1), None)
    if twice or not names or not all(n.isprintable() for n in names):
        fault = f"{twice!r} stands there twice" if twice else "a label holds what cannot be shown" if names else "holds no label"
        raise DataError(fault, where="--labels", remedy="--labels good,bad (or a file with one a line)")
    return tuple(names)


def label(session: Sitting, *, aside: str = "") -> int:
    """Show rows and write down what is said, until all are labelled or the person leaves; how many rows were answered or passed over."""
    console = Console(highlight=False)
    done: set[str] = set()
    if aside and console.width < WIDE:
        console.print(_guidelines(aside, None))
    try:
        row = _next(console, session)
        while row is not None:
            place = f"{session.earlier + len(done) + (row.item not in done)} of {len(session.rows)}"
            word = one(console, session, row, place=place, aside=aside)
            if word == "q":
                break
            if word == "b":
                earlier = session.back()
                if earlier is None:
                    console.print("this is the first of this session", style="yellow")
                row = earlier or row
                continue
            done.add(row.item)
            row = _next(console, session)
    except (Closed, KeyboardInterrupt):
        console.print()
    return len(done)


def one(console: Console, session: Sitting, row: Asked, *, place: str, aside: str) -> str:
    """Show a row and ask until there is an answer, and write it down: b, q, s, or nothing for an answer."""
    from luthier.workshop.labelling.opinions import shown

    before = session.said(row)
    _show(console, session.question, row, place=place, aside=aside)
    for name, value in session.others(row).items():
        console.print(Text.assemble((f"{clean(name)}: ", "bold"), clean(shown(value))))
    if before is not None:
        console.print(Text(f"you said: {clean(shown(before))}", style="dim"))
    ask = {"spans": _spans, "text": _text}.get(session.question.form, _classes)
    begun = time.monotonic()
    while True:
        try:
            said = ask(console, session, row)
            if said in ("b", "q"):
                return str(said)
            if said == "s":
                session.skip(row, seconds=time.monotonic() - begun)
                return "s"
            if said == "g":
                console.print(_guidelines(aside, None) if aside else Text("there are none: give them with --guidelines", style="yellow"))
                continue
            if isinstance(said, Answer):
                session.answer(row, said.value, seconds=time.monotonic() - begun)
                return ""
        except Unfit as error:
            console.print(Text(str(error), style="yellow"))
        except DataError as error:
            fault = error.fault
            console.print(Text(clean(f"{fault.message}: {fault.remedy}" if fault.remedy else fault.message), style="yellow"))


class Answer:
    """What was said, as the question wants it."""

    def __init__(self, value: Sequence[str] | Sequence[Span] | str) -> None:
        self.value = value


# ── what is typed ──────────────────────────────────────────────────────────────────────────────


def _classes(console: Console, session: Sitting, row: Asked) -> str | Answer:
    """One class by its key; by number or name where they are many or several."""
    question = session.question
    if len(question.labels) <= KEYED and not question.several:
        typed = read_key(console, f"1 to {len(question.labels)}, {GENERAL}, g guidelines")
    else:
        hint = "numbers or names between commas, . for none" if question.several else "a number or the beginning of a name"
        typed = _asked_line(console, f"{hint}, {GENERAL}, g guidelines")
    if typed in ("b", "s", "q", "g"):
        return typed
    if question.several and typed == ".":
        return Answer([])
    parts = [p.strip() for p in typed.split(",")] if question.several else [typed]
    return Answer([_label(question, part) for part in parts])


def _spans(console: Console, session: Sitting, row: Asked) -> str | Answer:
    """Spans by their first and last word and their label, one after the other."""
    from luthier.tasks.words import split
    from luthier.workshop.labelling.question import Span, text_of

    text = text_of(row.content)
    words = split(text)
    held = [s for s in session.said(row) or () if isinstance(s, Span)]
    while True:
        if held:
            console.print(_marked(text, words, held, session.question))
        theirs = session.others(row)
        take = ", = NAME takes theirs" if theirs else ""
        typed = _asked_line(console, f"2-4 label (words), . done, u undo{take}, {GENERAL}, g guidelines")
        if typed in ("b", "s", "q", "g"):
            return typed
        if typed == ".":
            return Answer(held)
        if typed == "u":
            held = held[:-1]
            continue
        if typed.startswith("=") and typed[1:].strip() in theirs:
            held = [s for s in theirs[typed[1:].strip()] if isinstance(s, Span)]
            continue
        try:
            held = _with(held, typed, words, session.question)
        except Unfit as error:
            console.print(Text(str(error), style="yellow"))


def _with(held: list[Span], typed: str, words: Sequence[tuple[int, int]], question: Question) -> list[Span]:
    """The spans with those that a line names. Raises Unfit for one that cannot be."""
    from luthier.workshop.labelling.question import Span

    for part in typed.split(","):
        place, _, name = part.strip().partition(" ")
        first, _, last = place.partition("-")
        if not first.isdecimal() or not (last or first).isdecimal():
            raise Unfit(f"{clean(part)!r} is no span: for example 2-4 {question.labels[0]}")
        a, b = int(first), int(last or first)
        if not 1 <= a <= b <= len(words):
            raise Unfit(f"there are words 1 to {len(words)}")
        label = question.labels[0] if not name.strip() and len(question.labels) == 1 else _label(question, name.strip())
        span = Span(words[a - 1][0], words[b - 1][1], label)
        if any(s.start < span.end and span.start < s.end for s in held):
            raise Unfit(f"words {place} have a label already: u takes the last one back")
        held = [*held, span]
    return held


def _text(console: Console, session: Sitting, row: Asked) -> str | Answer:
    """A text: the line that is typed; of several lines in the editor."""
    typed = _asked_line(console, f"write the answer, e several lines, {GENERAL}, g guidelines")
    if typed in ("b", "s", "q", "g"):
        return typed
    if typed == "e":
        before = session.said(row)
        typed = read_text(console, before if isinstance(before, str) else "", hint="write the answer").strip()
    if not typed:
        raise Unfit("nothing was written")
    return Answer(typed)


def _label(question: Question, typed: str) -> str:
    """A label by its number or name. Raises Unfit for neither."""
    if typed in question.labels:
        return typed
    if typed.isdecimal():
        if 1 <= int(typed) <= len(question.labels):
            return question.labels[int(typed) - 1]
        raise Unfit(f"there are labels 1 to {len(question.labels)}")
    if not typed:
        raise Unfit("which label?")
    try:
        return question.known(typed)
    except DataError as error:
        raise Unfit(clean(f"{error.fault.message}; {error.fault.remedy}")) from None


def _asked_line(console: Console, hint: str) -> str:
    console.print(Text(hint, style="dim"))
    if sys.stdin.isatty():
        console.print("> ", end="")
    return read_line().strip()


# ── what is shown ──────────────────────────────────────────────────────────────────────────────


def _next(console: Console, session: Sitting) -> Asked | None:
    """The next row; a terminal says what is waited for."""
    with console.status("picking rows (at first, the model reads them all)"):
        return session.next()


def _show(console: Console, question: Question, row: Asked, *, place: str, aside: str) -> None:
    console.rule(place, style="dim")
    body = _body(question, row)
    if aside and console.width >= WIDE:
        both = Table.grid(expand=True, padding=(0, 1))
        both.add_column(ratio=3)
        both.add_column(ratio=2)
        both.add_row(body, _guidelines(aside, max(8, console.height - 6)))
        console.print(both)
    else:
        console.print(body)


def _body(question: Question, row: Asked) -> RenderableType:
    from luthier.tasks.words import split
    from luthier.workshop.labelling.question import text_of

    text = text_of(row.content)
    if question.form == "spans":
        parts: list[RenderableType] = [Panel(_marked(text, split(text), [], question))]
    else:
        parts = [Panel(Text(clean(str(row.content[name])))) for name in ("text", "text_pair") if name in row.content]
    keys = [Text.assemble((f"{n} ", "bold"), clean(name)) for n, name in enumerate(question.labels, 1)]
    return Group(*parts, Columns(keys, padding=(0, 2), expand=False))


def _marked(text: str, words: Sequence[tuple[int, int]], spans: Sequence[Span], question: Question) -> Text:
    """The text with a number before each word, and the spans in colour with their label behind."""
    found, end = Text(), 0
    for number, (start, stop) in enumerate(words, 1):
        found.append(clean(text[end:start]))
        span = next((s for s in spans if s.start <= start < s.end), None)
        style = f"bold {STYLES[question.labels.index(span.label) % len(STYLES)]}" if span and span.label in question.labels else ""
        found.append(f"{number}·", style="dim")
        found.append(clean(text[start:stop]), style=style)
        if span is not None and stop >= span.end:
            found.append(f" [{clean(span.label)}]", style=style or "bold")
        end = stop
    found.append(clean(text[end:]))
    return found


def _guidelines(aside: str, lines: int | None) -> Panel:
    """The guidelines; of long ones so many lines, where they stand beside a row."""
    held = clean(aside).splitlines()
    cut = lines is not None and len(held) > lines
    body = Markdown("\n".join(held[:lines] if cut else held))
    return Panel(body, title="guidelines", border_style="dim", subtitle="more with g" if cut else None)
