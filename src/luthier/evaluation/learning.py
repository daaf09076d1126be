"""How a policy learned: its rewards, what it paid for them, and the signs of a reward that is outwitted.

Enters: the log of a run that learned from its own answers, and its evaluations. Leaves: charts, warnings, and the answers to the same
prompts at each evaluation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from luthier.evaluation import charts

LONGER, SHORTER = 1.5, 0.5
"""Growth or loss of the answers' length, as a ratio, that is worth a warning."""
FAR = 0.1
"""KL divergence from the start, nats a token, that is."""
FLAT = 0.2
"""Share of the first entropy below which answers have become one."""
ALIKE = 0.8
"""Correlation of reward and length, update by update, that is."""
POINTS = 200
TITLES = (
    ("reward", "Reward"), ("kl", "KL divergence from the start, nats a token"), ("entropy", "Entropy, nats a token"),
    ("length", "Length, tokens"), ("clipped", "Share of tokens clipped"), ("truncated", "Share of answers cut short"),
    ("zero_variance", "Share of prompts whose answers earned the same"), ("unscored", "Share of answers not judged"),
)  # fmt: skip


class Chart(NamedTuple):
    """A title and the picture under it, SVG."""

    title: str
    picture: str


def pictures(log: Sequence[Mapping[str, Any]], evaluations: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """What the updates' answers were like, and what held-out ones earned; a figure that was 0 throughout is left out."""
    found = []
    for name, title in TITLES:
        points = _series(log, name)
        if not any(value for _, value in points):
            continue
        series = [charts.Line("training", points, "a")]
        if name == "reward":
            series.append(
                charts.Line("validation, likeliest answer", [(e["step"], e["reward"]) for e in evaluations if "reward" in e], "b")
            )
        found.append(Chart(title, charts.lines(series, x_label="update", y_label=name.replace("_", " "))))
    parts = [n for n in (log[0]["parts"] if log else ()) if n.startswith("reward_") and n != "reward_deviation"]
    if parts:
        series = [charts.Line(n.removeprefix("reward_"), _series(log, n), "abc"[i % 3]) for i, n in enumerate(parts)]
        found.insert(1, Chart("Each reward by itself", charts.lines(series, x_label="update", y_label="reward")))
    return found


def _series(log: Sequence[Mapping[str, Any]], name: str) -> list[tuple[float, float]]:
    """(update, mean around it), at most so many points."""
    window = max(1, len(log) // POINTS)
    found = []
    for first in range(0, len(log), window):
        values = [r["parts"][name] for r in log[first : first + window] if r["parts"].get(name) is not None]
        if values:
            found.append((log[first]["step"], sum(values) / len(values)))
    return found


def signs(log: Sequence[Mapping[str, Any]]) -> list[str]:
    """What in the course of the updates hints at a reward that is outwitted, or a policy that has collapsed."""
    if len(log) < 4:
        return []
    edge = max(1, len(log) // 10)

    def ends(name: str) -> tuple[float, float]:
        values = [float(r["parts"].get(name) or 0.0) for r in log]
        return float(np.mean(values[:edge])), float(np.mean(values[-edge:]))

    found = []
    (length, longer), (_, kl), (entropy, flat), (reward, more) = ends("length"), ends("kl"), ends("entropy"), ends("reward")
    if length and longer / length >= LONGER:
        found.append(f"answers have grown from {length:.1f} to {longer:.1f} tokens: is length what is rewarded?")
    if length and longer / length <= SHORTER:
        found.append(f"answers have shrunk from {length:.1f} to {longer:.1f} tokens: is brevity what is rewarded?")
    if more > reward and (together := _correlation(log)) >= ALIKE and abs(longer / max(length, 1e-9) - 1) > 0.2:
        found.append(f"reward and length rise together (correlation {together:.2f}): read the answers before trusting the reward")
    if kl >= FAR:
        found.append(f"the model is {kl:.2f} nats a token from its start (KL divergence): raise task.beta, or set task.stop_kl")
    if entropy and flat / entropy <= FLAT:
        found.append(f"entropy has fallen from {entropy:.2f} to {flat:.2f} nats a token: the answers have become one")
    return found


def _correlation(log: Sequence[Mapping[str, Any]]) -> float:
    """Of reward and length over the updates; 0 where either stands still."""
    pairs = np.array([[r["parts"].get("reward") or 0.0, r["parts"].get("length") or 0.0] for r in log])
    return float(np.corrcoef(pairs.T)[0, 1]) if pairs.std(0).min() > 1e-9 else 0.0


def course(evaluations: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """For each prompt that was followed, its answer at each evaluation."""
    with_samples = [e for e in evaluations if e.get("samples")]
    found: dict[str, list[dict[str, Any]]] = {}
    for line in with_samples:
        for sample in line["samples"]:
            found.setdefault(sample["asked"], []).append({"step": line["step"], "said": sample["said"], "reward": sample["reward"]})
    return [{"asked": asked, "answers": answers} for asked, answers in found.items()]
