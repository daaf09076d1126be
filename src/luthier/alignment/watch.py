"""When to stop: rules over what the updates of policy optimisation tell.

Enters: the options and the reports' figures, in order. Leaves: the reason to stop, where there is one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping

from luthier.recipe.tasks.policy import PolicyOptions

WINDOW = 5
"""Updates over which a figure is averaged before it is held against its limit."""


class Watch:
    """Looks at the last few updates."""

    def __init__(self, options: PolicyOptions) -> None:
        self._options = options
        self._last: deque[Mapping[str, float]] = deque(maxlen=WINDOW)

    def recall(self, reports: Iterable[Mapping[str, float]]) -> None:
        """Take in what was seen before a resumed training was stopped."""
        self._last.extend(reports)

    def observe(self, parts: Mapping[str, float]) -> str:
        """Why training should stop after this update; empty where it should go on."""
        self._last.append(parts)
        if len(self._last) < WINDOW:
            return ""
        kl, entropy = self._mean("kl"), self._mean("entropy")
        if self._options.stop_kl is not None and kl > self._options.stop_kl:
            return f"the KL divergence from the start is {kl:.3f} nats a token, above task.stop_kl"
        if self._options.stop_entropy is not None and entropy < self._options.stop_entropy:
            return f"the entropy is {entropy:.3f} nats a token, below task.stop_entropy"
        if self._options.completions > 1 and min(p["zero_variance"] for p in self._last) >= 1.0:
            earned = f"{self._mean('reward'):.3f}"
            return f"in {WINDOW} updates all answers to each prompt have earned the same, {earned}: there is nothing more to learn"
        return ""

    def _mean(self, name: str) -> float:
        return sum(p[name] for p in self._last) / len(self._last)
