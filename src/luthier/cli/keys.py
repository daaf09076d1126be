"""What a person types: a key of a terminal, a line of a pipe, a text in an editor; and texts made harmless to the screen."""

from __future__ import annotations

import os
import sys

import click
from rich.console import Console
from rich.text import Text


class Closed(Exception):
    """Input has ended: the person has left, or closed the terminal."""


def read_text(console: Console, before: str, *, hint: str) -> str:
    """The text that a person makes of one: in $EDITOR where there is one, else in lines up to one that holds a single dot."""
    if sys.stdin.isatty() and (os.environ.get("VISUAL") or os.environ.get("EDITOR")):
        try:
            return click.edit(before, extension=".txt") or ""
        except click.ClickException as error:
            console.print(f"the editor cannot be used: {error.message}", style="yellow", markup=False)
    console.print(f"{hint}; a line with a single dot ends it")
    lines: list[str] = []
    while (line := read_line()) != ".":
        lines.append(line)
    return "\n".join(lines)


def read_key(console: Console, hint: str) -> str:
    """One key of a terminal, one line of a pipe."""
    console.print(Text(hint, style="dim"), end=" ")
    if not sys.stdin.isatty():
        line = read_line().strip().lower()
        console.print()
        return line
    key = pressed(sys.stdin.fileno())
    console.print(clean(key))
    return key.lower()


def pressed(terminal: int) -> str:
    """The next key, also one that was pressed before it was waited for, which `click.getchar` would throw away."""
    import select
    import termios
    import tty

    try:
        before = termios.tcgetattr(terminal)
        tty.setcbreak(terminal, termios.TCSADRAIN)
        try:
            read = os.read(terminal, 1)
            while read[:1] == b"\x1b":  # the rest of an arrow or another long key
                if not select.select([terminal], [], [], 0)[0]:
                    break
                read += os.read(terminal, 1)
        finally:
            termios.tcsetattr(terminal, termios.TCSADRAIN, before)
    except (OSError, termios.error) as error:
        raise Closed from error
    if read in (b"", b"\x04", b"\0"):  # control-D; pressed early, it is read as 0
        raise Closed
    return read.decode(errors="replace")


def read_line() -> str:
    """A line without its end. Raises Closed where there is none."""
    try:
        line = sys.stdin.readline()
    except OSError as error:
        raise Closed from error
    if not line:
        raise Closed
    return line.rstrip("\r\n")


def clean(text: str) -> str:
    """A text without what would steer the terminal."""
    return "".join(c if c in "\n\t" or not (ord(c) < 32 or 127 <= ord(c) < 160) else "�" for c in text)
