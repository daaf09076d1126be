"""Filling in the blank: what an encoder puts in place of its mask token, and what texts cost it.

Enters: texts with a mask, or without. Leaves: the likeliest words for each blank; or, for whole texts,
the pseudo-perplexity, every token hidden in turn (Salazar et al. 2020).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from luthier.errors import LuthierError
from luthier.inference.predict import evaluating
from luthier.models.batch import UNGRADED, collate, within_budget
from luthier.models.forward import place_logits
from luthier.models.language import token_figures

if TYPE_CHECKING:
    from luthier.models.load import Loaded

LONGEST = 128
"""Tokens of a text looked at for pseudo-perplexity: its cost grows with their square."""


def fill(loaded: Loaded, texts: Sequence[str], *, count: int = 5) -> list[list[list[dict[str, Any]]]]:
    """For each text and each of its blanks, the `count` likeliest words with their probabilities.

    Raises LuthierError for a text without a mask token or too long for the model.
    """
    tokenizer, layout = loaded.tokenizer, loaded.layout
    mask = tokenizer.mask_token_id
    found = []
    device = next(loaded.model.parameters()).device  # type: ignore[union-attr]
    with evaluating(loaded.model):
        for text in texts:
            ids = tokenizer(text).input_ids
            places = [i for i, token in enumerate(ids) if token == mask]
            if not places:
                remedy = f"write {tokenizer.mask_token} where a word is to be filled in"
                raise LuthierError(f"no {tokenizer.mask_token} in {text[:60]!r}", remedy=remedy)
            if len(ids) > loaded.max_length:
                raise LuthierError(f"{len(ids)} tokens, but the model takes {loaded.max_length}", remedy="shorten the text")
            batch = collate([{"input_ids": ids}], types=layout.token_types).to(device)
            logits = place_logits(loaded.model, batch, layout, torch.tensor(places, device=device)).float()
            best = torch.softmax(logits, -1).topk(count)
            found.append(
                [
                    [{"word": str(tokenizer.decode([t])).strip(), "probability": p} for t, p in zip(tokens, chances, strict=True)]
                    for tokens, chances in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ]
            )
    return found


def pseudo_figures(loaded: Loaded, texts: Sequence[str], *, max_tokens: int) -> NDArray[np.float64]:
    """(texts, 2): nats of all tokens, each hidden alone, and how many they are."""
    tokenizer, layout = loaded.tokenizer, loaded.layout
    special, mask = set(tokenizer.all_special_ids), tokenizer.mask_token_id
    longest = min(LONGEST, loaded.max_length)
    examples, owner = [], []
    for row, text in enumerate(texts):
        ids = tokenizer(text, truncation=True, max_length=longest).input_ids
        for place, token in enumerate(ids):
            if token not in special:
                labels = [UNGRADED] * len(ids)
                labels[place] = token
                examples.append({"input_ids": [*ids[:place], mask, *ids[place + 1 :]], "labels": labels})
                owner.append(row)
    found = np.zeros((len(texts), 2))
    device = next(loaded.model.parameters()).device  # type: ignore[union-attr]
    with evaluating(loaded.model):
        lengths = [len(e["input_ids"]) for e in examples]
        for rows in within_budget(range(len(examples)), lengths, max_tokens, padded=layout.kind == "padded", longest_first=True):
            batch = collate([examples[r] for r in rows], rows, types=layout.token_types).to(device)
            values = token_figures(loaded.model, batch, layout, masked=True).numpy()[:, :2]
            np.add.at(found, [owner[r] for r in batch.rows], values)
    return found


def pseudo_scores(gold: Any, figures: NDArray[np.float64]) -> dict[str, float]:
    """The pseudo-perplexity of some texts together; `gold` is not looked at."""
    nats, tokens = figures.sum(axis=0)
    return {"pseudo_perplexity": math.exp(min(nats / max(tokens, 1.0), 700.0))}
