"""The terminal in which people judge: two answers side by side, a key for each verdict, lines where input is a pipe."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from luthier.cli.keys import Closed, clean, read_key, read_text

if TYPE_CHECKING:
    from luthier.feedback.session import Session, Turn
    from luthier.feedback.store import Store

NARROW = 80
"""Columns below which answers stand one under the other."""
KEYS = "1 or 2 is better, t tie, s skip, e edit, b back, q quit"


def judge(session: Session, *, total: int, aside: str = "") -> int:
    """Show pairs and write down verdicts until all are judged or the person leaves; how many pairs were judged.

    `aside` are guidelines, shown above the first pair.
    """
    console = Console(highlight=False)
    if aside:
        console.print(Panel(Text(clean(aside)), title="guidelines", border_style="dim"))
    judged: set[str] = set()
    try:
        turn = _next(console, session)
        while turn is not None:
            place = session.earlier + session.identical + session.empty + session.number
            _show(console, turn, f"{place} of {total}")
            if said := session.said(turn):
                console.print(f"you said: {said}", style="dim", markup=False)
            verdict = _verdict(console, session, turn)
            if verdict == "q":
                break
            if verdict == "b":
                earlier = session.back()
                if earlier is None:
                    console.print("this is the first of this session", style="yellow")
                turn = earlier or turn
                continue
            judged.add(turn.pair.item)
            turn = _next(console, session)
    except (Closed, KeyboardInterrupt):
        console.print()
    return len(judged)


def _next(console: Console, session: Session) -> Turn | None:
    """The next pair; a terminal says what is waited for."""
    with console.status("writing answers"):
        return session.next()


def _verdict(console: Console, session: Session, turn: Turn) -> str:
    """Ask until there is an answer, and write it down: what was pressed."""
    begun = time.monotonic()
    while True:
        key = read_key(console, KEYS)
        seconds = time.monotonic() - begun
        if key in ("1", "2"):
            session.choose(turn, int(key) - 1, seconds=seconds)
        elif key in ("t", "s"):
            session.choose(turn, None, word={"t": "tie", "s": "skip"}[key], seconds=seconds)
        elif key == "e":
            if not _edited(console, session, turn, begun):
                continue
        elif key not in ("b", "q"):
            console.print(f"{clean(key)!r} is no key here: {KEYS}", style="yellow", markup=False)
            continue
        return key


def _edited(console: Console, session: Session, turn: Turn, begun: float) -> bool:
    """Ask for a better text; whether there is one."""
    key = read_key(console, "edit which, 1 or 2? (another key: neither)")
    if key not in ("1", "2"):
        return False
    place = int(key) - 1
    before = turn.shown[place]
    text = read_text(console, before, hint="write the better answer").strip()
    if not text or text == before.strip():
        console.print("nothing was changed", style="yellow")
        return False
    session.edit(turn, place, text, seconds=time.monotonic() - begun)
    return True


def _show(console: Console, turn: Turn, place: str) -> None:
    console.rule(place, style="dim")
    prompt = turn.prompt if isinstance(turn.prompt, str) else "\n".join(f"{m['role']}: {m.get('content') or ''}" for m in turn.prompt)
    if prompt:
        console.print(Text(clean(prompt), style="bold"))
    finish = [turn.pair.source["finish"][i] for i in turn.order]
    panels = [
        Panel(
            Text(clean(answer)),
            title=str(number),
            title_align="left",
            subtitle="cut off" if end == "length" else None,
            subtitle_align="right",
        )
        for number, (answer, end) in enumerate(zip(turn.shown, finish, strict=True), 1)
    ]
    if console.width < NARROW:
        for panel in panels:
            console.print(panel)
        return
    both = Table.grid(expand=True, padding=(0, 1))
    both.add_column(ratio=1)
    both.add_column(ratio=1)
    both.add_row(*panels)
    console.print(both)


def agreement_lines(store: Store) -> list[str]:
    """How far people agree, a line for each question and group; none where nobody judged what another did."""
    from luthier.workflow.opinions import agreements

    return [_agreement_line(found) for found in agreements(store)]


def _agreement_line(found: Any) -> str:
    names = ", ".join(found.annotators) if len(found.annotators) <= 4 else f"{len(found.annotators)} people"
    value = "not to be told from chance: all say one and the same"
    if found.value is not None:
        value = f"{found.value['value']:.2f} [{found.value['low']:.2f}, {found.value['high']:.2f}]"
    items = f"{found.items} item" + ("s" if found.items != 1 else "")
    return f"agreement {found.question}  {found.coefficient} {value}, the same in {found.same:.0%}, {items} ({names})"
