"""Two or more sides that take turns, each in a process of its own, and the ratio of their times.

Each side is set up as its users would have it. While one has its turn the others sleep (A-B-A-B); a
figure is the ratio of medians of seconds a step. The first round warms up and is not counted.
"""

from __future__ import annotations

import json
import re
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Seconds = float | dict[str, float]
"""Of a turn: the whole, or by name the parts that are compared."""
Turn = Callable[[int, int], tuple[list[float], Seconds]]
"""(first step, steps) -> (the loss of each step, seconds of the turn)."""
WHOLE = "step"
"""The part that stands for a turn that is not divided."""


def serve(make: Callable[[dict[str, Any]], Turn]) -> None:
    """The child: makes one side and takes turns as told on standard input; each answer ends with the MiB that training has added."""
    turn = make(json.loads(sys.stdin.readline()))
    before = resident("VmRSS")
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        print(json.dumps([*turn(*json.loads(line)), resident("VmHWM") - before]), flush=True)


def resident(name: str) -> float:
    """MiB that this process holds in memory: now (`VmRSS`), or at most so far (`VmHWM`); NaN where no Linux tells."""
    status = Path("/proc/self/status")
    found = re.search(rf"{name}:\s+(\d+)", status.read_text(encoding="utf-8")) if status.exists() else None
    return int(found[1]) / 1024 if found else float("nan")


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

    An order may hold `scale`: what its seconds are divided by, for sides whose steps hold more work. Of each side but the first:
    `ratio` and `difference` of losses. Of every side: `seconds`, and `memory`, the MiB that training added at most. Where a turn has
    parts, `ratio` and `seconds` of each are `ratio_NAME` and `seconds_NAME`.
    """
    steps = (turns + 1) * length
    children = {name: Child(script, {**order, "steps": steps}) for name, order in sides.items()}
    for child in children.values():
        child.answer()
    seconds: dict[str, dict[str, list[float]]] = {name: {} for name in sides}
    losses: dict[str, list[float]] = {name: [] for name in sides}
    results: dict[str, dict[str, float]] = {name: {} for name in sides}
    for turn in range(turns + 1):
        for name, child in children.items():
            child.ask([turn * length, length])
            found, took, results[name]["memory"] = child.answer()
            losses[name] += found
            for part, value in (took if isinstance(took, dict) else {WHOLE: took}).items():
                each = seconds[name].setdefault(part, [])
                if turn:
                    each.append(value / length / sides[name].get("scale", 1.0))
    for child in children.values():
        child.close()
    first, *others = sides
    for name in others:
        difference = max(abs(a - b) for a, b in zip(losses[first], losses[name], strict=False))
        results[name]["difference"] = difference
        for part, mine in seconds[name].items():
            theirs = seconds[first][part]
            base, median = statistics.median(theirs), statistics.median(mine)
            each = " ".join(f"{a / b:.2f}" for a, b in zip(theirs, mine, strict=True))
            whole = len(seconds[name]) == 1
            print(
                f"{f'{label}: {first} / {name}' + ('' if whole else f', {part}'):<48}{base * 1e3:9.1f} ms /{median * 1e3:8.1f} ms  "
                f"x{base / median:.2f}  [{each}]  largest loss difference {difference:.1e}",
                flush=True,
            )
            suffix = "" if whole else f"_{part}"
            results[name] |= {f"ratio{suffix}": base / median, f"seconds{suffix}": median}
            results[first][f"seconds{suffix}"] = base
    return results
