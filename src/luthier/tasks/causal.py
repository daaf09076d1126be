"""Causal language modelling: learning to continue plain text, for domain adaptation and pre-training.

Enters: documents. Leaves: windows of tokens laid end to end, never looking at each other. A document
longer than a window goes on in the next one, whose first token is the last of the one before, so that
every token but the very first is graded exactly once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.data.tokens import Encoded, assemble_tokens, tokenize
from luthier.tasks.language import LanguageTask

if TYPE_CHECKING:
    from luthier.models.heads import Head


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
        """Windows of at most `max_length` tokens; the end token closes each document."""
        import numpy as np

        found = tokenize([r.text for r in records], None, tokenizer.backend_tokenizer, max_length=None, cache=cache)
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
                examples.append({"input_ids": window[:-1], "labels": window[1:]})
                owner.append(index)
        rejected = dict.fromkeys(sorted(set(range(len(records))) - set(owner)), "one token alone: nothing to predict")
        return Encoded(assemble_tokens(examples, owner=owner), rejected)

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
