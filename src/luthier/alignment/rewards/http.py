"""A judge over HTTP.

Speaks to the one address that the recipe names: redirections are failures, and no proxy is asked. Each request has a deadline of
its own, whatever the other side does; what it answers is data, of which numbers are read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from luthier.alignment.reading import last_grade
from luthier.alignment.request import Failure, bearer, post
from luthier.alignment.rewards.reward import Asked, Marks, Messages, Row, cell
from luthier.errors import LuthierError, RewardError
from luthier.recipe.rewards.http import HttpOptions


class HttpReward:
    """What it says."""

    def __init__(self, options: HttpOptions, *, folder: Path, where: str) -> None:
        """Raises RewardError where the environment does not hold the token."""
        self.options = options
        try:
            self._headers = bearer(options.token_env)
        except KeyError:
            raise RewardError(
                f"the environment has no {options.token_env}", where=f"{where}.token_env", remedy=f"export {options.token_env}=..."
            ) from None
        self._pool = ThreadPoolExecutor(options.concurrency, thread_name_prefix="judge")
        self._closed = threading.Event()

    def __call__(self, prompt: Messages, completions: Sequence[str], row: Row) -> Marks:
        """Scores of one prompt's completions."""
        return self.together([Asked(prompt, completions, row)])[0]

    def together(self, asked: Sequence[Asked]) -> list[Marks]:
        """One request for each prompt, or, of a chat model, for each completion; so many at once as the recipe allows."""
        ask = self._plain if self.options.model is None else self._chat
        waiting = [ask(a) for a in asked]
        return [marks() for marks in waiting]

    def close(self) -> None:
        """End the pool; what waits to be tried again is not."""
        self._closed.set()
        self._pool.shutdown(cancel_futures=True)

    def _plain(self, asked: Asked) -> Callable[[], Marks]:
        body = {"prompt": list(asked.prompt), "completions": list(asked.completions), "row": dict(asked.row)}
        future = self._pool.submit(self._post, body)

        def marks() -> Marks:
            try:
                found = future.result()
            except Failure as error:
                return _none(asked, str(error))
            scores = found.get("scores") if isinstance(found, dict) else found
            if not isinstance(scores, list) or len(scores) != len(asked.completions):
                return _none(asked, f"the judge gave no list of {len(asked.completions)} scores")
            return Marks([s if isinstance(s, (int, float)) and not isinstance(s, bool) else None for s in scores])

        return marks

    def _chat(self, asked: Asked) -> Callable[[], Marks]:
        try:
            texts = [self._instruction(asked, completion) for completion in asked.completions]
        except LuthierError as error:
            reason = error.fault.message
            return lambda: _none(asked, reason)
        bodies = [{"model": self.options.model, "temperature": 0, "messages": [{"role": "user", "content": text}]} for text in texts]
        futures = [self._pool.submit(self._post, body) for body in bodies]

        def marks() -> Marks:
            scores, faults = list[float | None](), dict[int, str]()
            for place, future in enumerate(futures):
                try:
                    scores.append(self._grade(future.result()))
                except Failure as error:
                    scores.append(None)
                    faults[place] = str(error)
            return Marks(scores, faults=faults)

        return marks

    def _instruction(self, asked: Asked, completion: str) -> str:
        """The recipe's template, filled; what is put in is not read as one. Raises RewardError where the row lacks a column."""
        conversation = "\n\n".join(f"{m.get('role')}: {m.get('content')}" for m in asked.prompt)
        given = {name: cell(asked.row, name) for name in self.options.columns}
        given |= {"prompt": conversation, "completion": completion, "lowest": _plainly(self.options.lowest)}
        return self.options.instruction.format_map(given | {"highest": _plainly(self.options.highest)})

    def _grade(self, found: Any) -> float:
        """The number in a chat model's reply, from 0 to 1. Raises Failure where there is none, or one out of bounds."""
        try:
            reply = found["choices"][0]["message"]["content"]
        except (LookupError, TypeError):
            raise Failure("the judge gave no chat completion") from None
        number = last_grade(reply, highest=self.options.highest) if isinstance(reply, str) else None
        if number is None:
            raise Failure("the judge's reply has no number")
        low, high = self.options.lowest, self.options.highest
        if not low <= number <= high:
            raise Failure(f"the judge's number is not from {low:g} to {high:g}")
        return (float(number) - low) / (high - low)

    def _post(self, body: Any) -> Any:
        """The answer, tried again with pauses that grow where a failure may pass. Raises Failure."""
        pause = self.options.backoff
        for left in reversed(range(self.options.retries + 1)):
            try:
                return post(self.options.url, body, headers=self._headers, timeout=self.options.timeout)
            except Failure as error:
                if not left or not error.passing or self._closed.wait(pause):
                    raise
                pause *= 2
        raise AssertionError("the last try returns or raises")


def _none(asked: Asked, reason: str) -> Marks:
    return Marks([None] * len(asked.completions), faults=dict.fromkeys(range(len(asked.completions)), reason))


def _plainly(number: float) -> str:
    return f"{number:g}"
