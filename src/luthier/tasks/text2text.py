"""Text to text: learning to answer a source with a target; translation, summarisation, question answering.

Enters: rows with a source and a target. Leaves: for encoder-decoders the source for the encoder and the
target for the decoder; for decoders the source, a separator and the target, which alone is graded. The
end token closes every target and is graded with it.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.data.rows import Row
from luthier.data.tokens import UNGRADED, Encoded, assemble_tokens, tokenize
from luthier.errors import ModelError
from luthier.tasks.language import LanguageTask, text_fault

if TYPE_CHECKING:
    from luthier.models.heads import Head
    from luthier.tasks.texts import TextScores

BETWEEN = "\n\n"
"""Stands between examples in a prompt."""


class Text2Text(LanguageTask):
    """The task."""

    name = "text2text"
    writes = answers = True
    baselines = ("copy",)
    most_epochs = 10

    def columns(self) -> dict[str, str]:
        """The source, the target, and the columns of the prompt."""
        fields = [n for _, n, _, _ in string.Formatter().parse(self.options.prompt) if n and n != "text"]  # type: ignore[attr-defined]
        return {**dict.fromkeys(fields, "task.prompt"), self.data.text: "data.text", str(self.data.label): "data.label"}

    def record(self, row: Row) -> Record | str:
        """The source in its prompt, and the target; of several targets the first is learned, all are references."""
        source = self.source(row.values)
        if not isinstance(source, tuple):
            return source
        target = row.values.get(str(self.data.label))
        targets = [t for t in target if t] if isinstance(target, list) else [target]
        fault = next((f for t in targets or [None] if (f := text_fault(t))), None)
        if fault:
            return f"target: {fault}"
        return Record(source[0], None, tuple(str(t).strip() for t in targets), row.file, row.line)

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """Sources and targets."""
        return [t for r in records for t in (r.text, *r.target)]

    def source(self, values: Mapping[str, Any]) -> tuple[str] | str:
        """What the model reads for a row, or why it cannot; a list of sentences is joined."""
        value = values.get(self.data.text)
        if isinstance(value, list) and all(isinstance(v, str) for v in value):
            value = " ".join(value)
        fault = text_fault(value)
        if fault:
            return f"source: {fault}"
        others = {n: values.get(n) for n, why in self.columns().items() if why == "task.prompt"}
        if any(v is None or v == "" for v in others.values()):
            return "a column of the prompt is empty"
        return (self.options.prompt.format(**{**others, "text": str(value).strip()}),)  # type: ignore[attr-defined]

    def head(self, config: Any) -> Head:
        """An encoder-decoder's where it is one, else a decoder's."""
        from luthier.models.heads import Head

        return Head("pairs" if config.is_encoder_decoder else "causal")

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Sources and targets; a source too long is cut and counted, a target too long has its row rejected.

        Raises ModelError for a tokenizer without an end token, or a decoder that cannot start.
        """
        import numpy as np

        end = tokenizer.eos_token_id
        if end is None:
            raise ModelError(
                "its tokenizer has no end token, so no answer could ever end", where="model.name", remedy="choose another model"
            )
        backend = tokenizer.backend_tokenizer
        most = self.options.max_target or max_length // 2  # type: ignore[attr-defined]
        targets = tokenize([r.target[0] for r in records], None, backend, max_length=None, cache=cache, special=False).examples()
        sources = [s["input_ids"] for s in tokenize([r.text for r in records], None, backend, max_length=None, cache=cache).examples()]
        between = self._between(tokenizer)
        pairs: bool = config.is_encoder_decoder
        start: Any = getattr(config, "decoder_start_token_id", None)
        if pairs and start is None:
            raise ModelError("has no decoder_start_token_id", where="model.name", remedy="choose another model")
        examples: list[dict[str, Any]] = []
        owner: list[int] = []
        rejected: dict[int, str] = {}
        counts: Counter[str] = Counter()
        for index, source in enumerate(sources):
            target = np.append(targets[index]["input_ids"], end)
            if len(target) > most:
                rejected[index] = f"target longer than {most} tokens"
                continue
            owner.append(index)
            if pairs:
                counts["sources_cut"] += len(source) > max_length
                examples.append(
                    {"input_ids": np.append(start, target[:-1]), "labels": target, "source_ids": _ended(source[:max_length], source)}
                )
            else:
                prompt, cut = _prompt(source, between, end, room=max_length + 1 - len(target))
                counts["sources_cut"] += cut
                ids = np.concatenate([prompt, target])
                labels = np.concatenate([np.full(len(prompt) - 1, UNGRADED), target])
                examples.append({"input_ids": ids[:-1], "labels": labels})
        return Encoded(assemble_tokens(examples, owner=owner, truncated=counts["sources_cut"]), rejected, counts)

    def _between(self, tokenizer: Any) -> Any:
        import numpy as np

        separator = self.options.separator  # type: ignore[attr-defined]
        return np.array(tokenizer.backend_tokenizer.encode(separator, add_special_tokens=False).ids if separator else [], dtype=np.int32)

    def prompt_ids(self, texts: Sequence[str], tokenizer: Any, *, config: Any, max_length: int) -> list[list[int]]:
        """What a model is given for sources that carry their prompt already, as in training."""
        if not texts:
            return []
        sources = [s["input_ids"] for s in tokenize(list(texts), None, tokenizer.backend_tokenizer, max_length=None).examples()]
        if config.is_encoder_decoder:
            return [_ended(s[:max_length], s).tolist() for s in sources]
        room = max_length - min(self.options.max_new_tokens, max_length // 2)  # type: ignore[attr-defined]
        return [_prompt(s, self._between(tokenizer), tokenizer.eos_token_id, room=room)[0].tolist() for s in sources]

    def questions(self, records: Sequence[Record]) -> list[str]:
        """What each record asks, for samples."""
        return [r.text for r in records]

    def ask(self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int) -> list[list[int]]:
        """The prompts of records in tokens."""
        return self.prompt_ids([r.text for r in records], tokenizer, config=config, max_length=max_length)

    def references(self, records: Sequence[Record]) -> list[list[str]]:
        """The texts that answers are compared with."""
        return [list(r.target) for r in records]

    def text_scorer(self) -> TextScores:
        """The scores of written answers."""
        from luthier.tasks.texts import TextScores

        return TextScores(self.options.scorers)  # type: ignore[attr-defined]

    def answering(self) -> Text2Text:
        """The task itself: the target alone is graded."""
        return self

    def with_examples(self, record: Record, examples: Sequence[Record]) -> Record:
        """The record with answered sources before its own: source, separator and target, a blank line between."""
        separator = self.options.separator  # type: ignore[attr-defined]
        shown = [f"{e.text}{separator}{e.target[0]}" for e in examples]
        return replace(record, text=BETWEEN.join([*shown, record.text]))

    def first_answer(self, written: str) -> str:
        """What was written before the next example begins, should the model go on with one."""
        return written.partition(BETWEEN)[0].strip()

    def fits(self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int) -> list[bool]:
        """Whether each source can be read whole, and answered where one model reads and writes."""
        backend = tokenizer.backend_tokenizer
        sources = tokenize([r.text for r in records], None, backend, max_length=None).lengths()
        if config.is_encoder_decoder:
            return [size <= max_length for size in sources]
        targets = tokenize([r.target[0] for r in records], None, backend, max_length=None, special=False).lengths()
        wanted = min(self.options.max_new_tokens, max_length // 2)  # type: ignore[attr-defined]
        between = len(self._between(tokenizer))
        return [s + between + max(wanted, t) <= max_length for s, t in zip(sources, targets, strict=True)]

    def graded_text(self, record: Record) -> str:
        """The target."""
        return record.target[0]


def _ended(cut: Any, whole: Any) -> Any:
    """A cut source that still ends as the whole one does (with the tokenizer's own end token)."""
    if len(cut) < len(whole):
        cut = cut.copy()
        cut[-1] = whole[-1]
    return cut


def _prompt(source: Any, between: Any, end: int, *, room: int) -> tuple[Any, bool]:
    """(source cut to what is left of the room, without a closing end token, and the separator; whether it was cut)."""
    import numpy as np

    if len(source) and source[-1] == end:
        source = source[:-1]
    kept = source[: max(1, room - len(between))]
    return np.concatenate([kept, between]).astype(np.int32), len(kept) < len(source)
