"""Chat: learning to answer in conversations, from instructions to tool use.

Enters: rows in any of the chat formats. Leaves: conversations as the model's template writes them, with
the assistant's turns and their stop tokens graded and nothing else, whatever the template.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from luthier.data.prepare import Record
from luthier.data.rows import Row, Rows
from luthier.data.split import Part
from luthier.data.tokens import UNGRADED, Encoded, assemble_tokens
from luthier.errors import DataError
from luthier.tasks.conversation import Conversation, conversation, recognise, texts_in
from luthier.tasks.language import LanguageTask
from luthier.tasks.template import Rendered, Renderer, Span, TemplateError, TemplateStopped
from luthier.tasks.tokenizer import renderer_of

if TYPE_CHECKING:
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.chat import ChatOptions
    from luthier.tasks.texts import TextScores

T = TypeVar("T")
CHUNK = 1000
MOST_STOPPED = 3
"""Rows for which the template may be stopped by its limits; each costs seconds, so that the next one is an error."""


class Chat(LanguageTask):
    """The task, with the format that its rows have."""

    name = "chat"
    writes = answers = converses = True
    most_epochs = 5

    def __init__(self, options: ChatOptions, data: Data, *, format: str = "messages") -> None:
        super().__init__(options, data)
        self.format, self.chat = format, options

    @classmethod
    def plan(cls, options: ChatOptions, data: Data, rows: dict[Part, Rows]) -> Chat:
        """Recognise the format. Raises DataError where the columns are those of none, or a template file is missing."""
        found = options.format if options.format != "auto" else recognise(rows["train"].rows, options.columns)
        return cls(options, data, format=found)

    def inferred(self) -> list[tuple[str, Any, str]]:
        """The format, where it was recognised."""
        return [("task.format", self.format, "the columns")] if self.chat.format == "auto" else []

    def columns(self) -> dict[str, str]:
        """Formats have columns that may be missing from a row: rows are checked one by one."""
        return {}

    def state(self) -> dict[str, Any]:
        """The format."""
        return {"format": self.format}

    def record(self, row: Row) -> Record | str:
        """The conversation; its text is what comes before the last answer."""
        found = conversation(row.values, self.format, names=self.chat.columns, system=self.chat.system)
        if isinstance(found, str):
            return found
        last = max(i for i, m in enumerate(found.messages) if m["role"] == "assistant")
        return Record("\n".join(said(m) for m in found.messages[:last]) or "(nothing)", None, found, row.file, row.line)

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """What everybody says."""
        return [said(m, role=False) for r in records for m in r.target.messages]

    def head(self, config: Any) -> Head:
        """A decoder's own head."""
        from luthier.models.heads import Head

        return Head("causal")

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Conversations rendered, cut to `max_length`, with their graded tokens as labels.

        A row that the template refuses, that holds control tokens, or of which no graded token is left, is
        rejected. Tokens are the template's whole text at once, as servers make them. Raises TemplateStopped where
        the template goes over its limits again and again.
        """
        import numpy as np

        renderer, backend = self.renderer(tokenizer), backend_of(tokenizer)
        examples: list[dict[str, Any]] = []
        owner: list[int] = []
        rejected: dict[int, str] = {}
        counts: Counter[str] = Counter()
        for first in range(0, len(records), CHUNK):
            rendered = {
                i: r for i in range(first, min(first + CHUNK, len(records))) if (r := self._rendered(records[i], renderer, rejected, i))
            }
            encodings = backend.encode_batch([r.text for r in rendered.values()], add_special_tokens=False)
            for (index, shown), encoding in zip(rendered.items(), encodings, strict=True):
                ids = np.array(encoding.ids)
                learned = self._learned(shown, records[index])
                graded = self._graded(shown, learned, np.array(encoding.offsets).reshape(-1, 2))
                self._count(counts, shown, learned, graded, max_length)
                ids = ids[: max_length + 1]
                labels = np.where(graded[1 : max_length + 1], ids[1:], UNGRADED)
                if (labels == UNGRADED).all():
                    cut = graded[max_length + 1 :].any()
                    rejected[index] = f"its answers lie beyond the {max_length} tokens that fit" if cut else "nothing in it is graded"
                    continue
                examples.append({"input_ids": ids[:-1], "labels": labels})
                owner.append(index)
        return Encoded(assemble_tokens(examples, owner=owner, truncated=counts["rows_cut"]), rejected, counts)

    def renderer(self, tokenizer: Any) -> Renderer:
        """The template at work. Raises DataError for a template file that cannot be read."""
        template = None
        if self.chat.template is not None:
            try:
                template = Path(self.chat.template).read_text(encoding="utf-8-sig")
            except (OSError, UnicodeDecodeError) as error:
                raise DataError(
                    f"cannot be read: {error}",
                    where=f"task.template {self.chat.template}",
                    remedy="give a UTF-8 file with a Jinja template",
                ) from None
        return renderer_of(tokenizer, template=template)

    def _rendered(self, record: Record, renderer: Renderer, rejected: dict[int, str], index: int) -> Rendered | None:
        return self._shown(record, renderer, renderer.render, rejected, index)

    def _shown(self, record: Record, renderer: Renderer, show: Callable[..., T], rejected: dict[int, str], index: int) -> T | None:
        """What `show` makes of the messages and tools; None, and why in `rejected`, where a message or the template forbids it."""
        found: Conversation = record.target
        mark = next((m for text in texts_in([found.messages, found.tools]) if (m := renderer.control_token(text))), None)
        if mark:
            rejected[index] = f"a message holds the control token: {mark}"
            return None
        try:
            return show(found.messages, tools=found.tools)
        except TemplateError as error:
            rejected[index] = error.fault.message
            if isinstance(error, TemplateStopped) and list(rejected.values()).count(error.fault.message) == MOST_STOPPED:
                raise
            return None

    def _learned(self, shown: Rendered, record: Record) -> Sequence[Span]:
        """The turns to learn from; with `last` none where the template does not show that turn."""
        if self.chat.graded != "last":
            return shown.spans
        last = len(_before_last(record.target.messages))
        return [s for s in shown.spans if s.turn == last]

    def _graded(self, shown: Rendered, learned: Sequence[Span], offsets: Any) -> Any:
        """Which tokens are graded, by their character offsets, (tokens,) bool."""
        import numpy as np

        return np.ones(len(offsets), dtype=bool) if self.chat.graded == "all" else tokens_of(learned, shown, offsets)

    def _count(self, counts: Counter[str], shown: Rendered, learned: Sequence[Span], graded: Any, max_length: int) -> None:
        """Add to the figures that the label X-ray judges by."""
        counts["rows"] += 1
        counts["rows_cut"] += len(graded) > max_length + 1
        counts["answers_cut"] += bool(graded[max_length + 1 :].any())
        counts["turns"] += len(shown.spans) + len(shown.hidden)
        counts["turns_hidden"] += len(shown.hidden)
        counts["turns_ungraded"] += 0 if self.chat.graded == "all" else len(shown.spans) - len(learned)
        counts["contexts_changed"] += sum(not s.same_context for s in learned)
        counts["turns_graded"] += len(learned)

    def ask(self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int) -> list[list[int]]:
        """What the model is given before each conversation's last answer, in tokens; the newest part where it is too long."""
        renderer = self.renderer(tokenizer)
        room = max_length - min(self.options.max_new_tokens, max_length // 2)  # type: ignore[attr-defined]
        texts = [renderer.prompt(m, tools=r.target.tools) for r in records for m in [_before_last(r.target.messages)]]
        return [e.ids[-room:] for e in backend_of(tokenizer).encode_batch(texts, add_special_tokens=False)]

    def questions(self, records: Sequence[Record]) -> list[str]:
        """What each conversation has before its last answer, for samples."""
        return [r.text for r in records]

    def references(self, records: Sequence[Record]) -> list[list[str]]:
        """The last answers."""
        return [[said(r.target.messages[len(_before_last(r.target.messages))], role=False)] for r in records]

    def text_scorer(self) -> TextScores:
        """The scores of written answers."""
        from luthier.tasks.texts import TextScores

        return TextScores(self.chat.scorers)

    def answering(self) -> Chat:
        """The same task, grading the last answer alone."""
        return Chat(self.chat.model_copy(update={"graded": "last"}), self.data, format=self.format)

    def with_examples(self, record: Record, examples: Sequence[Record]) -> Record:
        """The record with answered conversations as earlier turns of its own, after its system message."""
        found: Conversation = record.target
        own, turns = list(found.messages), [m for e in examples for m in e.target.messages if m["role"] != "system"]
        first = 1 if own[0]["role"] == "system" else 0
        return replace(record, target=Conversation([*own[:first], *turns, *own[first:]], found.tools))

    def fits(self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int) -> list[bool]:
        """Whether each conversation can be read and answered whole; not where the template refuses it."""
        renderer, backend = self.renderer(tokenizer), backend_of(tokenizer)
        room = max_length - min(self.options.max_new_tokens, max_length // 2)  # type: ignore[attr-defined]
        found = []
        for record in records:
            messages, tools = record.target.messages, record.target.tools
            try:
                asked = renderer.prompt(_before_last(messages), tools=tools)
                whole = renderer.render(messages, tools=tools).text
            except TemplateError:
                found.append(False)
                continue
            sizes = [len(e.ids) for e in backend.encode_batch([asked, whole], add_special_tokens=False)]
            found.append(sizes[0] <= room and sizes[1] <= max_length + 1)
        return found

    def graded_text(self, record: Record) -> str:
        """All that the assistant says and that is graded."""
        if self.chat.graded == "last":
            return self.references([record])[0][0]
        return "\n".join(said(m, role=False) for m in record.target.messages if m["role"] == "assistant")


def tokens_of(spans: Sequence[Span], shown: Rendered, offsets: Any) -> Any:
    """Which tokens are of some turns, by their character offsets, (tokens,) bool.

    A token across a turn's beginning is one of it if it holds more of the turn than white space (a template
    whose header ends with a space, but not a header's token that takes white space along); one across
    its end always is (full stop and line break in one, a stop token that takes white space along).
    """
    import numpy as np

    starts, ends = offsets[:, 0], offsets[:, 1]
    before = np.concatenate([[0], np.maximum.accumulate(ends)[:-1]])
    starts = np.where(starts == ends, before, starts)  # some tokenizers trim white space away from the offsets
    found = np.zeros(len(offsets), dtype=bool)
    for span in spans:
        text = shown.text[span.start : span.end]
        words = span.start + len(text) - len(text.lstrip())
        found |= (starts < span.end) & ((starts >= span.start) | (ends > words))
    return found


def backend_of(tokenizer: Any) -> Any:
    """The tokenizer's backend, which neither cuts nor pads."""
    backend = tokenizer.backend_tokenizer
    backend.no_padding()
    backend.no_truncation()
    return backend


def _before_last(messages: Sequence[Any]) -> list[Any]:
    return list(messages[: max(i for i, m in enumerate(messages) if m["role"] == "assistant")])


def said(message: Any, *, role: bool = True) -> str:
    """A message as a line for people."""
    calls = [
        f"{c['function']['name']}({json.dumps(c['function']['arguments'], ensure_ascii=False)})" for c in message.get("tool_calls") or ()
    ]
    text = "\n".join([*([message["content"]] if message.get("content") else []), *calls])
    return f"{message['role']}: {text}" if role else text
