"""Causal language modelling: learning to continue plain text, for domain adaptation and pre-training.

Enters: documents. Leaves: windows of tokens laid end to end, never looking at each other. A document
longer than a window goes on in the next one, whose first token is the last of the one before, so that
every token but the very first is graded exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.data.tokens import UNGRADED, Encoded, assemble_tokens, tokenize
from luthier.tasks.language import LanguageTask

if TYPE_CHECKING:
    from luthier.models.heads import Head

BETWEEN = "\n\n"
"""Stands after each document that is shown before another."""


class Causal(LanguageTask):
    """The task."""

    name = "causal"
    writes = True

    def head(self, config: Any) -> Head:
        """The architecture's own token head."""
        from luthier.models.heads import Head

        return Head("causal")

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Windows of at most `max_length` tokens; the end token closes each document. What stands before one is not graded."""
        import numpy as np

        backend = tokenizer.backend_tokenizer
        found = tokenize([r.text for r in records], None, backend, max_length=None, cache=cache)
        before = {i: self._before(r, backend) for i, r in enumerate(records) if r.pair is not None}
        end = tokenizer.eos_token_id
        examples: list[dict[str, Any]] = []
        owner: list[int] = []
        for index, example in enumerate(found.examples()):
            ids = example["input_ids"]
            if end is not None and ids[-1] != end:
                ids = np.append(ids, np.int32(end))
            for start in range(0, max(1, len(ids) - 1), max_length):
                window = ids[start : start + max_length + 1]
                if len(window) < 2:
                    continue
                shown = before.get(index, []) if start == 0 else []
                labels = np.concatenate([np.full(len(shown), UNGRADED), window[1:]])
                examples.append({"input_ids": np.concatenate([shown, window[:-1]]).astype(np.int32), "labels": labels})
                owner.append(index)
        rejected = dict.fromkeys(sorted(set(range(len(records))) - set(owner)), "one token alone: nothing to predict")
        return Encoded(assemble_tokens(examples, owner=owner), rejected)

    @staticmethod
    def _before(record: Record, backend: Any) -> list[int]:
        """The tokens of the documents that are shown before a record's own."""
        return list(backend.encode(f"{record.pair}{BETWEEN}").ids)

    def answering(self) -> Causal:
        """The task itself: the documents that are shown are not graded."""
        return self

    def with_examples(self, record: Record, examples: Sequence[Record]) -> Record:
        """The record with documents before its own, a blank line after each."""
        return replace(record, pair=BETWEEN.join(e.text for e in examples)) if examples else record

    def fits(self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int) -> list[bool]:
        """Whether each document can be read whole after those that are shown before it."""
        backend = tokenizer.backend_tokenizer
        own = tokenize([r.text for r in records], None, backend, max_length=None).lengths()
        return [size + len(self._before(r, backend) if r.pair else []) <= max_length for r, size in zip(records, own, strict=True)]

    def questions(self, records: Sequence[Record]) -> list[str]:
        """Beginnings for samples: the recipe's, else each text's first words."""
        return self.options.prompts or [_beginning(r.text)[0] for r in records]  # type: ignore[attr-defined]

    def ask(self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int) -> list[list[int]]:
        """The beginnings in tokens."""
        room = max_length - min(self.options.max_new_tokens, max_length // 2)  # type: ignore[attr-defined]
        return [e.ids[-room:] for e in tokenizer.backend_tokenizer.encode_batch(self.questions(records))]

    def references(self, records: Sequence[Record]) -> list[list[str]]:
        """How the texts themselves go on; empty for beginnings of the recipe's own."""
        own = self.options.prompts  # type: ignore[attr-defined]
        return [[] for _ in own] if own else [[_beginning(r.text)[1]] for r in records]


def _beginning(text: str) -> tuple[str, str]:
    words = text[:4000].split(" ")
    cut = min(12, max(1, len(words) // 2))
    return " ".join(words[:cut]), " " + " ".join(words[cut : cut + 60])
