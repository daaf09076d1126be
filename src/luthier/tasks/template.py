"""The one renderer of conversations: for training, evaluation, generation and serving.

Enters: messages and a chat template. Leaves: the text a model reads, with the spans of its assistant
turns. Spans are found by rendering: once as it is, once up to the turn with the generation prompt, once
with the turn as the last, and once with a sentinel in its place. So they hold for any template, and no
content can fake them. Templates come with models, so they run in a sandbox, with limits on time and memory.
"""

from __future__ import annotations

import ctypes
import functools
import json
import math
import mmap
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import jinja2
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

from luthier.errors import LuthierError

Message = Mapping[str, Any]
SECONDS = 2.0
"""Longest time that one rendering may take."""
MAX_SIZE = 1 << 28
"""Largest text or list, in characters or places, that one operation of a template may make."""
MAX_MEMORY = 1 << 29
"""Bytes by which the process may grow while a template runs."""
REFUSALS = (jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError, AttributeError, RecursionError, MemoryError)
"""What a template may raise that does not fit its messages."""
PLAIN = """{% if tools %}{{ 'System:\\nTools: ' + (tools | tojson) + '\\n\\n' }}{% endif %}\
{% for message in messages %}\
{% if message.role == 'assistant' %}\
{{ 'Assistant:\\n' + (message.content or '') }}\
{% if message.tool_calls %}{% for call in message.tool_calls %}\
{{ '\\n' if message.content or not loop.first else '' }}\
{{ 'Call: ' + ({'name': call.function.name, 'arguments': call.function.arguments} | tojson) }}\
{% endfor %}{% endif %}\
{{ eos_token + '\\n\\n' }}\
{% else %}\
{{ message.role | capitalize + ':\\n' + message.content + '\\n\\n' }}\
{% endif %}{% endfor %}\
{% if add_generation_prompt %}{{ 'Assistant:\\n' }}{% endif %}"""
"""For models without a template: "User:", "Assistant:" and so on over each turn; the end token closes the assistant's."""


class TemplateError(LuthierError):
    """A chat template that cannot render a conversation."""


class TemplateStopped(TemplateError):
    """A chat template that went over its time or memory."""


class Span(NamedTuple):
    """An assistant turn with its stop token: characters [start, end) of the rendered text, and whether this is what the
    model is given and has to write when it answers: the same prompt before it, and the turn as it is when it is the last.
    """

    turn: int
    start: int
    end: int
    stopped: bool
    same_context: bool


class Rendered(NamedTuple):
    """A conversation as text. `hidden` are assistant turns that the template does not show."""

    text: str
    spans: tuple[Span, ...]
    hidden: tuple[int, ...]


class Renderer:
    """A compiled chat template with the special tokens it may write."""

    def __init__(self, template: str, *, specials: Mapping[str, str], special_tokens: Sequence[str]) -> None:
        """`specials` are what the template knows by name (bos_token ...); `special_tokens` all single-token marks.

        Raises TemplateError where the template is not valid.
        """
        self.template, self._specials = template, dict(specials)
        self.marks = tuple(sorted(special_tokens, key=len, reverse=True))
        try:
            self._compiled = _compiled(template)
        except (jinja2.TemplateError, SyntaxError, ValueError, OverflowError, RecursionError, MemoryError) as error:
            raise TemplateError(
                f"the chat template is not valid: {error}", where="chat template", remedy="mend it, or give another with task.template"
            ) from None

    def prompt(self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None) -> str:
        """The text before the next assistant turn. Raises TemplateError."""
        return self._render(messages, tools, prompt=True)

    def control_token(self, text: str) -> str | None:
        """A special token that stands in a message's own text, if one does."""
        return next((m for m in self.marks if m in text), None)

    def render(self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None) -> Rendered:
        """The whole conversation with the spans of its assistant turns. Raises TemplateError."""
        search = _Search(self, messages, tools)
        found = {turn: search.span(turn) for turn, message in enumerate(messages) if message["role"] == "assistant"}
        return Rendered(search.text, tuple(s for s in found.values() if s), tuple(turn for turn, s in found.items() if not s))

    def write(self, messages: Sequence[Message], *, tools: Sequence[Any] | None = None) -> str:
        """The conversation as text. Raises TemplateError."""
        return self._render(messages, tools, prompt=False)

    def _render(self, messages: Sequence[Message], tools: Sequence[Any] | None, *, prompt: bool) -> str:
        """Templates differ in what they want of calls: arguments as a mapping or as JSON text, no content or none at all."""
        calls = any(m.get("tool_calls") for m in messages)
        first: TemplateError | None = None
        for text, empty in ((False, False), (False, True), (True, False), (True, True)) if calls else ((False, False),):
            try:
                return self._try([_shaped(m, text=text, empty=empty) for m in messages], tools, prompt)
            except TemplateStopped:
                raise
            except TemplateError as error:
                first = first or error
        assert first is not None, "it returns, or there was an error"
        raise first

    def _try(self, messages: Sequence[Message], tools: Sequence[Any] | None, prompt: bool) -> str:
        try:
            with _within(SECONDS):
                return self._compiled.render(
                    messages=messages, tools=list(tools) if tools else None, add_generation_prompt=prompt, **self._specials
                )
        except _Stopped as stopped:
            reason = f"the chat template {stopped.limit}"
            raise TemplateStopped(reason, where="chat template", remedy="give another with task.template") from None
        except REFUSALS as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise TemplateError(f"the chat template refuses: {reason}") from None


class _Place(NamedTuple):
    """A turn's text [start, body), its stop token [body, end), and whether the generation prompt stands before it."""

    start: int
    body: int
    end: int
    same_prompt: bool


class _Search:
    """One conversation, and where its assistant turns lie in the text."""

    def __init__(self, renderer: Renderer, messages: Sequence[Message], tools: Sequence[Any] | None) -> None:
        self.renderer, self.messages, self.tools = renderer, messages, tools
        self.text = renderer.write(messages, tools=tools)

    def span(self, turn: int) -> Span | None:
        """The turn with its stop token; None where the template does not show it, or mixes it with other turns."""
        place = self._place(turn)
        if place is None:
            return None
        called = [str(call["function"]["name"]) for call in self.messages[turn].get("tool_calls") or ()]
        if not all(name in self.text[place.start : place.end] for name in called):
            return None
        return Span(turn, place.start, place.end, place.end > place.body, place.same_prompt)

    def _place(self, turn: int) -> _Place | None:
        """By the sentinel where the turn's text is also its text when it is the last; else by that one; else by the sentinel alone."""
        prompt = self.renderer.prompt(self.messages[:turn], tools=self.tools)
        asked = self.text.startswith(prompt)
        last = turn == len(self.messages) - 1
        alone = self.text if last else self._tried(self.messages[: turn + 1])
        found = self._by_sentinel(turn, prompt if asked else None)
        if found is not None and alone.startswith(self.text[: found.body]):
            return found
        closed = alone.rstrip()
        if asked and len(closed) > len(prompt) and closed.endswith(self.renderer.marks) and self.text.startswith(closed):
            sentinel = _sentinel()  # what comes after the prompt is the turn, if the template shows last turns at all
            shown = self._tried([*self.messages[:turn], _answer(sentinel)])
            if shown.startswith(prompt) and sentinel in shown[len(prompt) :]:
                mark = next(m for m in self.renderer.marks if closed.endswith(m))
                return _Place(len(prompt), len(closed) - len(mark), len(closed), True)
        if found is None or not (last or self._apart(turn, self.text[: found.body])):
            return None
        return found._replace(same_prompt=found.same_prompt and not alone)

    def _by_sentinel(self, turn: int, prompt: str | None) -> _Place | None:
        """Where the turn lies, if the template shows another in its place, and what follows it stays the same.

        `prompt` is the generation prompt where the text begins with it.
        """
        sentinel, rest = _sentinel(), self.messages[turn + 1 :]
        before, shown, after = self._tried([*self.messages[:turn], _answer(sentinel), *rest]).partition(sentinel)
        if not shown or sentinel in after or not self.text.endswith(after):
            return None
        same = prompt is not None and before.startswith(prompt)
        start = len(prompt or "") if same else self._after_header(turn, before)
        body = len(self.text) - len(after)
        if not self.text.startswith(before[:start]) or body < start:
            return None
        return _Place(start, body, body + len(self._mark_at(after)), same)

    def _after_header(self, turn: int, before: str) -> int:
        """Where the turn begins in `before`, when that does not begin with the generation prompt.

        With sentinels in the turn and in the message before it, what lies between the two is the template's own.
        """
        if not turn:
            return len(before)
        first, second = _sentinel(), _sentinel()
        earlier = [*self.messages[: turn - 1], {**self.messages[turn - 1], "content": first}]
        header = self.renderer.prompt(earlier, tools=self.tools).rpartition(first)[2]
        between = self._tried([*earlier, _answer(second), *self.messages[turn + 1 :]]).partition(second)[0].rpartition(first)[2]
        known = before.endswith(between) and between.startswith(header)
        return len(before) - len(between) + len(header) if known else len(before)

    def _apart(self, turn: int, upto: str) -> bool:
        """Whether the text up to the turn's end stays as it is when the message after it, such as a tool's result, is another."""
        after = {**self.messages[turn + 1], "content": _sentinel()}
        return self._tried([*self.messages[: turn + 1], after, *self.messages[turn + 2 :]]).startswith(upto)

    def _mark_at(self, text: str) -> str:
        """The white space and special token that `text` begins with; empty where it begins otherwise."""
        rest = text.lstrip()
        mark = next((m for m in self.renderer.marks if rest.startswith(m)), None)
        return "" if mark is None else text[: len(text) - len(rest)] + mark

    def _tried(self, messages: Sequence[Message]) -> str:
        """The messages as text; empty where the template refuses them, as it may results without their call."""
        try:
            return self.renderer.write(messages, tools=self.tools)
        except TemplateStopped:
            raise
        except TemplateError:
            return ""


def _answer(text: str) -> Message:
    return {"role": "assistant", "content": text}


def _sentinel() -> str:
    """Digits that stand nowhere else, and that no change of case or white space alters."""
    return f"{secrets.randbelow(9 * 10**23) + 10**23}"


def _shaped(message: Message, *, text: bool, empty: bool) -> dict[str, Any]:
    """The message with its calls' arguments as a mapping, or as JSON text; without the content it does not have, or with None."""
    shaped = {k: v for k, v in message.items() if v is not None and k != "tool_calls"}
    if not message.get("tool_calls"):
        return shaped
    if empty:
        shaped.setdefault("content", None)
    calls = []
    for call in message["tool_calls"]:
        function = dict(call["function"])
        arguments = function.get("arguments", {})
        if text and not isinstance(arguments, str):
            function["arguments"] = json.dumps(arguments, ensure_ascii=False)
        elif not text and isinstance(arguments, str):
            function["arguments"] = _json_or_text(arguments)
        calls.append({**call, "type": call.get("type", "function"), "function": function})
    return {**shaped, "tool_calls": calls}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text


# ── the sandbox ────────────────────────────────────────────────────────────────────────────────


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
def _compiled(template: str) -> jinja2.Template:
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


class _Stopped(BaseException):
    """Raised inside a rendering that went over a limit; not an Exception, so that no template can catch it."""

    limit = "was stopped"


class _TooLong(_Stopped):
    limit = f"ran longer than {SECONDS:g} seconds"


class _TooLarge(_Stopped):
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


def _interrupt(thread: int, reason: type[_Stopped] | None) -> None:
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
def _within(seconds: float) -> Iterator[None]:
    _watch.begin(seconds)
    try:
        yield
    finally:
        _watch.end()
