"""Conversations that are judged whole: which share a tree, and what of their tokens is read.

Enters: records of a prompt with answers, and the token ids of each conversation. Leaves: which records come in one tree; the ids up
to the place where a model's value is read; or why there is nothing to judge.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.tasks.chat import said
from luthier.tasks.comparisons import Comparison

if TYPE_CHECKING:
    from luthier.tasks.template import Renderer

TOGETHER = 16
"""Answers to one prompt, from as many rows, that are judged as one tree at most."""


def together(records: Sequence[Record]) -> list[list[int]]:
    """Which records make one tree each: answers that nobody has rated, to the same prompt, up to so many; every other by itself."""
    trees: list[list[int]] = []
    begun: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        found: Comparison = record.target
        alone = bool(found.ratings) or len(found.answers) != 1
        key = "" if alone else json.dumps([found.prompt, found.tools], sort_keys=True)
        tree = None if alone else begun.get(key)
        if tree is None or len(tree) == TOGETHER:
            tree = []
            trees.append(tree)
            begun[key] = tree
        tree.append(index)
    return trees


def lengths_of(found: Comparison) -> list[int]:
    """Characters of each answer."""
    return [sum(len(said(m, role=False)) for m in answer) for answer in found.answers]


def pad_of(tokenizer: Any, config: Any) -> int | None:
    """A decoder's pad token; None for an encoder, which reads a text between tokens of its own.

    transformers reads a decoder's value at the last token that is not the pad token, so where that also closes turns, at the
    token before.
    """
    from luthier.models.config import is_decoder

    return None if config is not None and not is_decoder(config) else -1 if tokenizer.pad_token_id is None else tokenizer.pad_token_id


def read_up_to(ids: Sequence[int], most: int, pad: int | None) -> Any:
    """At most so many ids; an encoder's with its last one, a decoder's without pad tokens at their end."""
    import numpy as np

    if pad is None:
        return np.array(ids if len(ids) <= most else [*ids[: most - 1], ids[-1]])
    found = np.array(ids[:most])
    kept = np.flatnonzero(found != pad)
    return found[: int(kept[-1]) + 1] if len(kept) else found[:0]


def nothing_left(record: Record, own: Sequence[Any], renderer: Renderer, backend: Any, max_length: int) -> str:
    """Why a record's sequences say nothing, if they do not."""
    found: Comparison = record.target
    if any(len(ids) == 0 for ids in own):
        return "the template shows nothing of it"
    if max(map(len, own)) >= max_length - 1:
        asked = renderer.prompt(found.prompt, tools=found.tools)
        if len(backend.encode(asked, add_special_tokens=False).ids) >= max_length - 1:
            return f"its answers lie beyond the {max_length} tokens that fit"
    if found.ratings and len({ids.tobytes() for ids in own}) < len(own):
        return f"its answers are the same in the {max_length} tokens that fit"
    return ""
