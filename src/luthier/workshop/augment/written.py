"""Texts that a model writes for training rows, kept in the cache: the same recipe does not ask twice."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from luthier.data.augment.augmenter import Draft, varied
from luthier.data.tokens import cache_folder
from luthier.workshop.asking.journal import Journal
from luthier.workshop.asking.request import Answer, Engine, Request
from luthier.workshop.asking.voice import Voice


def ask(engine: Engine, requests: Sequence[Request]) -> list[Answer]:
    """What the model answers, or has answered before. Raises EndpointError where it is not there."""
    name = hashlib.sha256(engine.identity.encode()).hexdigest()[:24]
    with Voice(engine, Journal(cache_folder().parent / "asked" / f"{name}.jsonl")) as voice:
        return voice.ask(requests)


def draft(answer: Answer, source: str) -> Draft:
    """An answer as a draft of a text."""
    if answer.text is None:
        return Draft(None, why=f"no answer: {answer.why}")
    text = answer.text.strip().strip('"').strip()
    return varied(text, source) if text else Draft(None, why="the answer is empty")
