"""Masked language modelling: learning to fill in hidden words, for the domain adaptation of encoders.

Enters: texts. Leaves: windows of tokens of which a share is hidden, other ones each epoch (Devlin et al.
2019, sec. 3.1: of those chosen 80% become the mask, 10% a random token, 10% stay). In evaluation the
choice is fixed, and every text is hidden in the same places for every model with the tokenizer.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.data.tokens import UNGRADED, Encoded, assemble_tokens
from luthier.errors import ModelError
from luthier.tasks.language import LanguageTask

if TYPE_CHECKING:
    from luthier.models.heads import Head

REAL, RANDOM = 0.8, 0.1


class Masked(LanguageTask):
    """The task."""

    name = "masked"
    masked = True
    alters = True
    rate, rate_width = 2e-4, 384

    def head(self, config: Any) -> Head:
        """The architecture's own fill-in head."""
        from luthier.models.heads import Head

        return Head("masked")

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Windows with the tokenizer's own special tokens; those of evaluation are masked already.

        Raises ModelError for a tokenizer without a mask token.
        """
        if tokenizer.mask_token_id is None:
            raise ModelError(
                "its tokenizer has no mask token", where="model.name", remedy="choose an encoder such as minilm, or task.type: causal"
            )
        self._mask, self._special = tokenizer.mask_token_id, frozenset(tokenizer.all_special_ids)
        self._words = len(tokenizer)
        backend = tokenizer.backend_tokenizer
        backend.no_padding()
        backend.enable_truncation(max_length)
        examples: list[dict[str, Any]] = []
        owner: list[int] = []
        for index, first in enumerate(backend.encode_batch([r.text for r in records])):
            for window in (first, *first.overflowing):
                example = {"input_ids": window.ids, "words": [-1 if w is None else w for w in window.word_ids]}
                if all(i in self._special for i in window.ids):
                    continue
                examples.append(example)
                owner.append(index)
        backend.no_truncation()
        if not train:
            examples = [dict(self.alter(e, random.Random(f"evaluation/{i}"))) for i, e in enumerate(examples)]
        rejected = dict.fromkeys(sorted(set(range(len(records))) - set(owner)), "no words: nothing to predict")
        return Encoded(assemble_tokens(examples, owner=owner), rejected)

    def alter(self, example: Mapping[str, Any], draw: random.Random) -> Mapping[str, Any]:
        """The example with a share of its tokens (or whole words) hidden and graded; never none of them."""
        import numpy as np

        ids, words = np.array(example["input_ids"]), np.asarray(example["words"])
        free = [i for i, token in enumerate(ids.tolist()) if token not in self._special]
        if self.options.whole_word:  # type: ignore[attr-defined]
            groups: dict[int, list[int]] = {}
            for i in free:
                groups.setdefault(int(words[i]) if words[i] >= 0 else -2 - i, []).append(i)
            units = list(groups.values())
        else:
            units = [[i] for i in free]
        draw.shuffle(units)
        wanted = max(1, round(len(free) * self.options.mask_share))  # type: ignore[attr-defined]
        labels = np.full(len(ids), UNGRADED)
        hidden = 0
        for unit in units:
            if hidden >= wanted:
                break
            fate = draw.random()
            for i in unit:
                labels[i] = ids[i]
                if fate < REAL:
                    ids[i] = self._mask
                elif fate < REAL + RANDOM:
                    ids[i] = draw.randrange(self._words)
            hidden += len(unit)
        return {"input_ids": ids, "labels": labels}
