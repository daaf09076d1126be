"""What the tests of rewards share: a task that has some, a way to score, and a judge on this machine."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Literal

from pydantic import TypeAdapter

from luthier.alignment.rewards.reward import Asked
from luthier.alignment.scoring import Scored, Scorer
from luthier.recipe.rewards import Rewards
from luthier.recipe.tasks.options import TaskOptions

RULE: list[Callable[..., Any]] = []
"""What `rule` does: the tests put in what it is to be."""


class RewardedOptions(TaskOptions):
    """A task that has rewards."""

    type: Literal["rewarded"] = "rewarded"
    rewards: Rewards


def rule(prompt: Any, completions: list[str], row: dict[str, Any]) -> Any:
    return RULE[-1](prompt, completions, row)


def options(*rewards: Any) -> Any:
    return TypeAdapter(Rewards).validate_python(list(rewards))


def score(rewards: Any, completions: list[str], row: dict[str, Any] | None = None, *, folder: Path | None = None) -> Scored:
    """One prompt's completions under some rewards."""
    sections = options(*rewards) if isinstance(rewards, list) else options(rewards)
    with Scorer(sections, folder=folder or Path.cwd()) as scorer:
        return scorer.score([Asked([{"role": "user", "content": "say it"}], completions, row or {})])


def totals(rewards: Any, completions: list[str], row: dict[str, Any] | None = None, **rest: Any) -> list[float]:
    found: list[float] = score(rewards, completions, row, **rest).total[0].tolist()
    return found


Answer = Callable[[int, Any, BaseHTTPRequestHandler], Any]


class Judge:
    """A server: `requests` are (headers, body, path) as they came in."""

    def __init__(self, answer: Answer) -> None:
        self.requests: list[tuple[dict[str, str], Any, str]] = []
        self.at_once = self.most_at_once = 0
        lock, judge = threading.Lock(), self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                with lock:
                    number = len(judge.requests)
                    judge.requests.append((dict(self.headers), body, self.path))
                    judge.at_once += 1
                    judge.most_at_once = max(judge.most_at_once, judge.at_once)
                found = answer(number, body, self)
                with lock:  # before the answer goes out, after which the next request may come
                    judge.at_once -= 1
                if found is None:
                    return
                status, value = found if isinstance(found, tuple) else (200, found)
                text = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                if status in (301, 307):
                    self.send_header("Location", f"http://127.0.0.1:{judge.server.server_port}/elsewhere")
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *_: object) -> None:
                return

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/score"


@contextmanager
def judge(answer: Answer) -> Iterator[Judge]:
    found = Judge(answer)
    thread = threading.Thread(target=found.server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    try:
        yield found
    finally:
        found.server.shutdown()
        found.server.server_close()


def said(text: str) -> dict[str, Any]:
    """A chat model's reply."""
    return {"choices": [{"message": {"role": "assistant", "content": text}}]}
