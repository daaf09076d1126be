"""The one renderer of conversations: for training, evaluation, generation and serving.

Enters: messages and a chat template. Leaves: the text a model reads, with the spans of its assistant
turns. Spans are found by rendering: once as it is, once up to the turn with the generation prompt, once
with the turn as the last, and once with a sentinel in its place. So they hold for any template, and no
content can fake them. Templates come with models, so they run in a sandbox, with limits on time and memory.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jinja2

from luthier.errors import LuthierError
from luthier.tasks.sandbox import REFUSALS, Stopped, compiled, within

Message = Mapping[str, Any]
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
            self._compiled = compiled(template)
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
            with within():
                return self._compiled.render(
                    messages=messages, tools=list(tools) if tools else None, add_generation_prompt=prompt, **self._specials
                )
        except Stopped as stopped:
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
