"""What a model is asked, and what it answers."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Protocol

from luthier.alignment.request import Failure

PER_MESSAGE = 16
"""Tokens that a chat template may put around a message."""


@dataclass(frozen=True)
class Request:
    """A prompt as one user's message. Requests with different seeds are different requests."""

    prompt: str
    temperature: float
    max_tokens: int
    seed: int

    def key(self, identity: str) -> str:
        """The name under which the answer of a model is kept."""
        told = json.dumps([identity, self.prompt, self.temperature, self.max_tokens, self.seed], ensure_ascii=True)
        return hashlib.sha256(told.encode()).hexdigest()[:40]

    @property
    def most(self) -> int:
        """Tokens that it can cost at most: no token is shorter than a byte."""
        return len(self.prompt.encode("utf-8", "surrogatepass")) + PER_MESSAGE + self.max_tokens


@dataclass(frozen=True)
class Reply:
    """What was answered, and the tokens of prompt and answer together."""

    text: str
    tokens: int


@dataclass(frozen=True)
class Answer:
    """What became of a request: a text, or None and why there is none."""

    text: str | None
    why: str = ""


class Engine(Protocol):
    """What answers. `identity` tells it from others; `batch` requests go to it in one call, so many calls at once as `concurrency`.

    `retries` and `backoff` are for failures that may pass.
    """

    identity: str
    batch: int
    concurrency: int
    retries: int
    backoff: float

    def __call__(self, requests: list[Request]) -> list[Reply | Failure]: ...
