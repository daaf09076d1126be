"""The books: what became of every row, and that none is missing.

Enters: what each stage said of each batch. Leaves: fates (one a row and stage that changed, dropped or quarantined it; a row
without one was kept as it was), and the figures of the report. Rows in = kept + dropped + quarantined, or the books do not close.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

Outcome = Literal["changed", "dropped", "quarantined"]
READING = "read"
"""The stage that quarantines: reading."""
MOST_REASONS = 20


class Fate(NamedTuple):
    """What a stage did to a row, and why."""

    file: str
    line: int
    outcome: Outcome
    stage: str
    reason: str


@dataclass
class Books:
    """Rows counted in and out. Stages are known by their place and type: `2 length`."""

    read: int = 0
    kept: int = 0
    changed: int = 0
    """Kept rows that some stage changed."""
    outcomes: dict[str, Counter[str]] = field(default_factory=dict)
    """Stage -> outcome -> rows."""
    reasons: dict[str, Counter[str]] = field(default_factory=dict)
    """Stage -> reason, without what follows its colon -> rows."""
    counts: dict[str, Counter[str]] = field(default_factory=dict)
    """Stage -> what it counted itself."""

    def enter(self, fate: Fate) -> None:
        """Write down one fate."""
        self.outcomes.setdefault(fate.stage, Counter())[fate.outcome] += 1
        self.reasons.setdefault(fate.stage, Counter())[fate.reason.split(":")[0]] += 1

    def total(self, outcome: Outcome) -> int:
        """Rows (for `changed`: rows and stages) that met an outcome."""
        return sum(c[outcome] for c in self.outcomes.values())

    def add(self, other: Books) -> None:
        """Take over another's entries."""
        self.read += other.read
        self.kept += other.kept
        self.changed += other.changed
        for mine, theirs in ((self.outcomes, other.outcomes), (self.reasons, other.reasons), (self.counts, other.counts)):
            for stage, counter in theirs.items():
                mine.setdefault(stage, Counter()).update(counter)

    def check(self) -> None:
        """Raise AssertionError where a row is missing or counted twice."""
        out = self.kept + self.total("dropped") + self.total("quarantined")
        if self.read != out:
            raise AssertionError(f"rows do not balance: {self.read} read, {out} accounted for: {self.summary()}")

    def summary(self) -> dict[str, Any]:
        """The figures, as the report has them."""
        stages = {
            stage: {
                **self.outcomes.get(stage, {}),
                "reasons": dict(self.reasons.get(stage, Counter()).most_common(MOST_REASONS)),
                **({"counts": dict(self.counts[stage])} if self.counts.get(stage) else {}),
            }
            for stage in sorted({*self.outcomes, *self.counts}, key=lambda s: (s != READING, s))
        }
        return {
            "read": self.read,
            "kept": self.kept,
            "changed": self.changed,
            "dropped": self.total("dropped"),
            "quarantined": self.total("quarantined"),
            "stages": stages,
        }
