"""A model that is asked: with a journal, within a budget, again where a failure may pass.

Enters: requests. Leaves: an answer for each, in their order, those of the journal without asking. A failure that stays is
written down and final once another request was answered, so that a run which was killed takes the same course again; where
requests fail one after the other, the model is not there, and EndpointError says so.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

from luthier.alignment.request import Failure
from luthier.errors import EndpointError
from luthier.workshop.asking.journal import Journal
from luthier.workshop.asking.request import Answer, Engine, Reply, Request

SPENT = "the budget is spent"
HOPELESS = frozenset({301, 302, 307, 308, 401, 403, 404, 405})
"""Statuses that every request would get."""
TOO_LONG = 413
"""Status of a request whose prompt is too long: its own fault, which says nothing of the model."""
IN_A_ROW = 8
"""Requests that fail one after the other before the model is held to be gone."""
LONGEST_WAIT = 600.0
"""Seconds that an endpoint may ask to wait."""


class Budget(NamedTuple):
    """What may be spent over the life of a journal; None is no limit."""

    requests: int | None = None
    tokens: int | None = None


class Voice:
    """Used as a context: what waits to be tried again is not, once it is left."""

    def __init__(self, engine: Engine, journal: Journal, *, budget: Budget = Budget()) -> None:  # noqa: B008  (immutable)
        self.engine, self.journal, self.budget = engine, journal, budget
        self.failures: dict[str, int] = {}
        """Reason -> tries that failed for it, in this process."""
        self._pool = ThreadPoolExecutor(engine.concurrency, thread_name_prefix="asking")
        self._over = threading.Event()
        self._lock = threading.Lock()
        self._unlucky: dict[str, str] = {}
        self._gone: EndpointError | None = None

    def __enter__(self) -> Voice:
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._pool.shutdown(cancel_futures=True)
        self.journal.close()

    def ask(self, requests: Sequence[Request]) -> list[Answer]:
        """An answer for each. Raises EndpointError where the model is not there, or refuses everything."""
        keys = [r.key(self.engine.identity) for r in requests]
        known = self.journal.answers
        open_ = list({k: r for k, r in zip(keys, requests, strict=True) if k not in known}.items())
        size = self.engine.batch
        waiting = [self._pool.submit(self._chunk, open_[i : i + size]) for i in range(0, len(open_), size)]
        found: dict[str, Answer] = {}
        try:
            for future in waiting:
                found |= future.result()
        finally:
            for future in waiting:
                future.cancel()
        if self._gone is not None:
            raise self._gone
        return [known[k] if k in known else found[k] for k in keys]

    def _chunk(self, chunk: list[tuple[str, Request]]) -> dict[str, Answer]:
        """Ask for some requests together, and again for those that failed."""
        pause, found = self.engine.backoff, dict[str, Answer]()
        for left in reversed(range(self.engine.retries + 1)):
            if self._gone is not None:
                return found
            sent = [(k, r) for k, r in chunk if self._reserve(k, r)]
            found |= {k: Answer(None, SPENT) for k, r in chunk if (k, r) not in sent}
            if not sent:
                return found
            replies = self.engine([r for _, r in sent])
            chunk, wait = [], 0.0
            for (key, request), reply in zip(sent, replies, strict=True):
                if isinstance(reply, Reply):
                    self._replied(key, request, reply)
                    found[key] = Answer(reply.text)
                    continue
                again = self._failed(key, request, reply, left=left)
                if again:
                    chunk.append((key, request))
                    wait = max(wait, reply.after)
                else:
                    found[key] = Answer(None, str(reply))
            if not chunk or self._over.wait(max(pause, wait)):
                return found
            pause *= 2
        return found

    def _reserve(self, key: str, request: Request) -> bool:
        """Write down that a request goes out, if it may; what is on its way counts with the most that it may cost."""
        with self._lock:
            journal, budget = self.journal, self.budget
            if budget.requests is not None and journal.requests >= budget.requests:
                return False
            if budget.tokens is not None and journal.tokens + request.most > budget.tokens:
                return False
            journal.sent(key, most=request.most)
            return True

    def _replied(self, key: str, request: Request, reply: Reply) -> None:
        with self._lock:
            self.journal.replied(key, reply, most=request.most)
            unlucky, self._unlucky = self._unlucky, {}
        for other, why in unlucky.items():
            self.journal.given_up(other, why)

    def _failed(self, key: str, request: Request, failure: Failure, *, left: int) -> bool:
        """Write a try down that gave nothing; whether it is to be tried again."""
        why = str(failure)
        charged = request.most if failure.status in (None, 200) else 0  # an endpoint that broke off may have written
        with self._lock:
            self.journal.failed(key, why, tokens=charged, most=request.most)
            self.failures[why] = self.failures.get(why, 0) + 1
            if failure.status in HOPELESS:
                self._gone = EndpointError(why, where=self.engine.identity, remedy="check the address, the model's name and the token")
                return False
            if left and failure.passing and failure.after <= LONGEST_WAIT:
                return True
            if failure.status == TOO_LONG:
                self.journal.given_up(key, why)
                return False
            self._unlucky[key] = why
            if len(self._unlucky) >= IN_A_ROW and self._gone is None:
                self._gone = EndpointError(
                    f"{len(self._unlucky)} requests failed one after the other, the last because {why}",
                    where=self.engine.identity,
                    remedy="when it answers again, the same command goes on: what was answered is kept",
                )
            return False
