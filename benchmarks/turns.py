"""Two or more sides that take turns, each in a process of its own, and the ratio of their times.

Each side is set up as its users would have it. While one has its turn the others sleep (A-B-A-B); a
figure is the ratio of medians of seconds a step. The first round warms up and is not counted.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Callable
from typing import Any

Turn = Callable[[int, int], tuple[list[float], float]]
"""(first step, steps) -> (the loss of each step, seconds of the turn)."""


def serve(make: Callable[[dict[str, Any]], Turn]) -> None:
    """The child: makes one side and takes turns as told on standard input."""
    turn = make(json.loads(sys.stdin.readline()))
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps(turn(*json.loads(line))), flush=True)


class Child:
    """One side's process; `answer` waits for what it was asked."""

    def __init__(self, script: str, order: dict[str, Any]) -> None:
        self.process = subprocess.Popen(
            [sys.executable, script, "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
        )
        self.ask(order)

    def ask(self, message: Any) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def answer(self) -> Any:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            if line.startswith(("[", '"ready"')):
                return json.loads(line)
        raise RuntimeError("the other side ended")

    def close(self) -> None:
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def take_turns(label: str, sides: dict[str, dict[str, Any]], *, script: str, turns: int, length: int) -> dict[str, dict[str, float]]:
    """Sides take turns of `length` steps, first to last, over and over; ratios are of the first side's median to each other's.

    An order may hold `scale`: what its seconds are divided by, for sides whose steps hold more work.
    """
    steps = (turns + 1) * length
    children = {name: Child(script, {**order, "steps": steps}) for name, order in sides.items()}
    for child in children.values():
        child.answer()
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(turns + 1):
        for name, child in children.items():
            child.ask([turn * length, length])
            found, took = child.answer()
            losses[name] += found
            if turn:
                seconds[name].append(took / length / sides[name].get("scale", 1.0))
    for child in children.values():
        child.close()
    first, *others = sides
    base = statistics.median(seconds[first])
    results = {}
    for name in others:
        mine = statistics.median(seconds[name])
        pairs = list(zip(losses[first], losses[name], strict=False))
        difference = max(abs(a - b) for a, b in pairs)
        each = " ".join(f"{a / b:.2f}" for a, b in zip(seconds[first], seconds[name], strict=True))
        print(
            f"{f'{label}: {first} / {name}':<48}{base * 1e3:9.1f} ms /{mine * 1e3:8.1f} ms  x{base / mine:.2f}  [{each}]"
            f"  largest loss difference {difference:.1e}",
            flush=True,
        )
        results[name] = {"ratio": base / mine, "seconds": mine, "difference": difference}
    return results
