"""What the tests of asking and synthesis share: an endpoint on this machine that fails, stalls, repeats itself and says nonsense."""

from __future__ import annotations

import json
import random
import threading
import time
from collections import Counter
from typing import Any

from tests.alignment.world import said

TOPICS = [f"{a}{b}" for a in ("river", "garden", "engine", "market", "window", "violin", "harbour", "desert") for b in "abcdefghijklmnop"]
FAULTS = ("busy", "limited", "stall", "garbage", "no choices", "hang up", "empty")


def sentence(draw: random.Random, words: int = 8) -> str:
    return " ".join(draw.sample(TOPICS, words))


class Endpoint:
    """Answers a request by its body alone, so that whoever asks again gets the same; with `faults` it misbehaves first.

    `seen` are the bodies as they came in, `tokens` those that it charged, `faulty` counts what it did wrong.
    """

    def __init__(self, *, faults: bool = False, rows: int = 2, repeats: float = 0.0, pause: float = 0.0, stall: float = 0.6) -> None:
        self.faults, self.rows, self.repeats, self.pause, self.stall = faults, rows, repeats, pause, stall
        self.seen: list[dict[str, Any]] = []
        self.tokens = 0
        self.faulty: Counter[str] = Counter()
        self.enough = threading.Event()
        self.wanted = 10**9
        self._tries: Counter[str] = Counter()
        self._lock = threading.Lock()

    def __call__(self, number: int, body: Any, handler: Any) -> Any:
        key = json.dumps(body, sort_keys=True)
        with self._lock:
            self.seen.append(body)
            self._tries[key] += 1
            tries = self._tries[key]
            if len(self.seen) >= self.wanted:
                self.enough.set()
        draw = random.Random(f"fault {key}")
        fault = draw.choice((*FAULTS, None, None)) if self.faults else None
        if fault is not None and tries <= draw.choice((1, 1, 2)):
            with self._lock:
                self.faulty[fault] += 1
            return self._misbehave(fault, handler)
        time.sleep(self.pause)
        answer = said(self.text(body, random.Random(key)))
        answer["usage"] = {"total_tokens": len(body["messages"][0]["content"]) // 4 + 40}
        with self._lock:
            self.tokens += answer["usage"]["total_tokens"]
        return answer

    def text(self, body: Any, draw: random.Random) -> str:
        """Rows of each kind of request, some of them said before; or a verdict."""
        prompt = body["messages"][0]["content"]
        if "Reply with 1 or 2" in prompt:
            first, second = (prompt.split(f"<answer_{i}>\n")[1].split("\n</answer")[0] for i in (1, 2))
            return "1" if first < second else "2"
        if "Reply with the number" in prompt:
            return str(1 + len(prompt) % 10)
        rows = []
        for _ in range(self.rows):
            own = random.Random("again") if draw.random() < self.repeats else draw
            text = sentence(own)
            rows.append({"instruction": text, "input": "", "output": "fine", "text": text, "question": text, "answer": "fine"})
        if draw.random() < 0.1:
            return "I am sorry, {but I cannot"
        return "Here you are:\n" + "\n".join(map(json.dumps, rows)) + "\nAnything else?"

    def _misbehave(self, fault: str, handler: Any) -> Any:
        if fault == "busy":
            return 503, b"busy"
        if fault == "limited":
            handler.send_response(429)
            handler.send_header("Retry-After", "0.05")
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return None
        if fault == "stall":
            time.sleep(self.stall)
            return None
        if fault == "garbage":
            return b"<html>\xff\xfe"
        if fault == "no choices":
            return {"choices": []}
        if fault == "empty":
            return said("  \n")
        handler.connection.close()
        return None
