"""Where chat templates run: Jinja's sandbox, with limits on time, memory and the size of what they make.

Enters: a template's text. Leaves: a compiled template, and a context in which it is stopped in time. Templates
come with models from anywhere; they are programs, and are not trusted.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import mmap
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

SECONDS = 2.0
"""Longest time that one rendering may take."""
MAX_SIZE = 1 << 28
"""Largest text or list, in characters or places, that one operation of a template may make."""
MAX_MEMORY = 1 << 29
"""Bytes by which the process may grow while a template runs."""
REFUSALS = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError, MemoryError)
"""What a template may raise that does not fit its messages."""


class _Generation(Extension):
    """Reads `{% generation %}` marks, which other tools need, and does nothing for them."""

    tags = {"generation"}  # noqa: RUF012  (jinja's own protocol)

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Sandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox, which also refuses operations that make huge things of small ones."""

    intercepted_binops = frozenset({"*", "**", "%"})

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        _refuse_huge({"%": "format"}.get(operator, operator), (left, right))
        return super().call_binop(context, operator, left, right)

    def call(self, context: Any, function: Any, /, *args: Any, **kwargs: Any) -> Any:  # type: ignore[override]
        if isinstance(owner := getattr(getattr(function, "__wrapped__", function), "__self__", None), (str, bytes, list)):
            _refuse_huge(function.__name__, (owner, *args, *kwargs.values()))
        return super().call(context, function, *args, **kwargs)


WIDE = re.compile(r"\d{6}|\*")
"""A width or precision in a format that no honest template has."""
GROWING = frozenset({"*", "batch", "center", "expandtabs", "indent", "join", "ljust", "replace", "rjust", "slice", "translate", "zfill"})


def _refuse_huge(name: str, values: Sequence[Any]) -> None:
    """Raise SecurityError for an operation whose result may be larger than MAX_SIZE."""
    numbers = all(isinstance(v, (int, float)) for v in values)
    if name in ("format", "format_map"):
        huge = isinstance(values[0], str) and WIDE.search(values[0]) is not None
    elif name == "**" or (name == "*" and numbers):
        huge = name == "**" or abs(values[0] * values[1]) > 1 << 64
    else:
        if name == "replace":  # what is replaced does not make the result longer
            values = [*values[:1], *values[2:]]
        sizes = (abs(v) if isinstance(v, int) else len(v) for v in values if isinstance(v, (int, str, bytes, list, tuple)))
        huge = name in GROWING and math.prod(max(1, size) for size in sizes) > MAX_SIZE
    if huge:
        raise jinja2.exceptions.SecurityError(f"{name} with sizes so large is not allowed")


def _guarded(name: str, made: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that refuses what would be huge; it keeps the marks by which jinja passes it the environment."""

    @functools.wraps(made)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        _refuse_huge(name, [v for v in (*args, *kwargs.values()) if isinstance(v, (int, float, str, list, tuple))] or [None])
        return made(*args, **kwargs)

    return guarded


@functools.lru_cache(maxsize=16)
def compiled(template: str) -> jinja2.Template:
    """The template, ready to run. Raises jinja2.TemplateError where it is not valid."""
    return _environment().from_string(template)


def _environment() -> jinja2.Environment:
    environment = _Sandbox(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
    environment.filters.update({n: _guarded(n, f) for n, f in environment.filters.items() if n in GROWING or n == "format"})
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _refuse
    environment.globals["strftime_now"] = lambda form: time.strftime(form)
    return environment


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None, sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _refuse(message: str) -> None:
    raise jinja2.exceptions.TemplateError(message)


class Stopped(BaseException):
    """Raised inside a rendering that went over a limit; not an Exception, so that no template can catch it."""

    limit = "was stopped"


class _TooLong(Stopped):
    limit = f"ran longer than {SECONDS:g} seconds"


class _TooLarge(Stopped):
    limit = f"took more than {MAX_MEMORY >> 20} MiB of memory"


class _Watch:
    """One thread that interrupts renderings past their deadline, or under which the process grows too much."""

    def __init__(self) -> None:
        self._lock, self._running = threading.Lock(), dict[int, tuple[float, int]]()
        self._thread: threading.Thread | None = None

    def begin(self, seconds: float) -> None:
        with self._lock:
            self._running[threading.get_ident()] = (time.monotonic() + seconds, _resident())
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, daemon=True, name="template watch")
                self._thread.start()

    def end(self) -> None:
        with self._lock:
            if self._running.pop(threading.get_ident(), None) is None:  # interrupted: nothing may arrive after this
                _interrupt(threading.get_ident(), None)

    def _run(self) -> None:
        while True:
            time.sleep(0.05)
            with self._lock:
                now, held = time.monotonic(), _resident() if self._running else 0
                for thread, (deadline, before) in list(self._running.items()):
                    reason = _TooLong if deadline < now else _TooLarge if held - before > MAX_MEMORY else None
                    if reason is not None:
                        del self._running[thread]
                        _interrupt(thread, reason)


def _interrupt(thread: int, reason: type[Stopped] | None) -> None:
    """Have `reason` raised in a thread; None takes back what has not been raised yet."""
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), None if reason is None else ctypes.py_object(reason))


def _resident() -> int:
    """Bytes of memory that the process holds; 0 where the system does not tell."""
    try:
        with open("/proc/self/statm", "rb") as file:
            return int(file.read().split()[1]) * mmap.PAGESIZE
    except (OSError, ValueError, IndexError):
        return 0


_watch = _Watch()


@contextmanager
def within() -> Iterator[None]:
    """A context that is interrupted, by Stopped, when its time is over or the process grows too much."""
    _watch.begin(SECONDS)
    try:
        yield
    finally:
        _watch.end()
