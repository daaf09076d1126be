"""Rewards together: the weighted sum, each part as it is, and what failed.

Enters: what was asked, as prompts with k completions each. Leaves: totals and parts, (asked, k), NaN where a completion has no score,
and the faults by name and reason. A reward that fails on everything at first, or on too much later, stops training with its name.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.alignment.limit import Overrun, within
from luthier.alignment.rewards.reward import Asked, Closing, Marks, Together
from luthier.errors import LuthierError, RewardError
from luthier.recipe.rewards.options import RewardOptions
from luthier.registry import REWARDS

Array = NDArray[np.float64]
REASON = 160
"""Characters of a reason that are kept."""


@dataclass(frozen=True)
class Scored:
    """`total` and each of `parts` are (asked, k). `faults` counts completions without a score by `name: reason`."""

    total: Array
    parts: dict[str, Array]
    faults: Counter[str]


@dataclass(frozen=True)
class _Graded:
    """What one reward gave: scores and parts, (asked, k); why completions have none, in order, and what may mend it."""

    scores: Array
    parts: dict[str, Array]
    reasons: list[str]
    remedy: str | None


class Scorer:
    """The rewards of a recipe, ready. Use it as a context, or close it."""

    def __init__(self, options: Sequence[RewardOptions], *, folder: Path, where: str = "task.rewards") -> None:
        """Make each reward. `folder` is the recipe's, `where` the list's path in it.

        Raises RewardError, with its path in the recipe, for one that cannot be had.
        """
        self.options, self._where = list(options), where
        self._rewards: list[Any] = []
        self._succeeded = [False] * len(self.options)
        try:
            for i, section in enumerate(self.options):
                place = f"{where}.{i}"
                self._rewards.append(REWARDS.load(section.type, where=place)(section, folder=folder, where=place))
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Scorer:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def names(self) -> tuple[str, ...]:
        """What `parts` has: each reward's name, and behind it `name.part` for those with parts of their own."""
        return tuple(name for o in self.options for name in o.figures)

    @property
    def facts(self) -> dict[str, Any]:
        """By name, what a reward is whose scores come from files: a model's folder and digests."""
        return {o.label: r.facts for o, r in zip(self.options, self._rewards, strict=True) if hasattr(r, "facts")}

    @property
    def notes(self) -> list[str]:
        """What users should know: where a limit that was meant does not hold on this machine."""
        pairs = zip(self.options, self._rewards, strict=True)
        return [f"reward {o.label}: {note}" for o, reward in pairs for note in getattr(reward, "notes", ())]

    def score(self, asked: Sequence[Asked]) -> Scored:
        """Score the completions; every prompt has as many, k.

        Raises RewardError for a reward that failed on all of them before it ever succeeded, or on more than its `max_fault_share`.
        """
        k = len(asked[0].completions) if asked else 0
        if any(len(a.completions) != k for a in asked):
            raise ValueError("prompts have different numbers of completions")
        total, parts, faults = np.zeros((len(asked), k)), dict[str, Array](), Counter[str]()
        for i, section in enumerate(self.options):
            graded = self._graded(i, asked, k)
            self._refuse_failing(i, graded, len(asked) * k)
            faults.update(f"{section.label}: {reason}" for reason in graded.reasons)
            parts[section.label] = graded.scores
            parts.update({f"{section.label}.{name}": values for name, values in graded.parts.items()})
            if section.weight:
                total += section.weight * graded.scores
        return Scored(total, parts, faults)

    def close(self) -> None:
        """End what the rewards hold."""
        for reward in self._rewards:
            if isinstance(reward, Closing):
                reward.close()

    def _graded(self, i: int, asked: Sequence[Asked], k: int) -> _Graded:
        reward, section = self._rewards[i], self.options[i]
        names = section.parts
        scores, parts = np.full((len(asked), k), np.nan), {n: np.full((len(asked), k), np.nan) for n in names}
        reasons: list[str] = []
        remedy = None
        answers = _together(reward, asked) if isinstance(reward, Together) else [_one(reward, a, section.timeout) for a in asked]
        for line, answer in enumerate(answers):
            if isinstance(answer, Exception):
                reasons += [_reason(answer)] * k
                remedy = remedy or (answer.fault.remedy if isinstance(answer, LuthierError) else None)
                continue
            try:
                found = len(answer.scores)
            except TypeError:
                reasons += ["gave no list of scores"] * k
                continue
            if found != k:
                reasons += [f"gave {found} scores for {k} completions"] * k
                continue
            for place, score in enumerate(answer.scores):
                value = answer.faults.get(place) or _number(score)
                if isinstance(value, str):
                    reasons.append(value[:REASON])
                    continue
                scores[line, place] = value
                for n in names:
                    parts[n][line, place] = answer.parts[n][place]
        return _Graded(scores, parts, reasons, remedy)

    def _refuse_failing(self, i: int, graded: _Graded, count: int) -> None:
        section, failed = self.options[i], len(graded.reasons)
        never = failed == count and not self._succeeded[i]
        self._succeeded[i] |= failed < count
        if not failed or (not never and failed / count <= section.max_fault_share):
            return
        advice = [graded.remedy] if graded.remedy else []
        advice += ["mend the reward, or take it out"] if never else ["mend the reward, or raise its max_fault_share"]
        raise RewardError(
            f"the reward {section.label} failed on {failed} of {count} completions; first: {graded.reasons[0]}",
            where=f"{self._where}.{i}",
            remedy="; ".join(advice),
        )


def _one(reward: Any, asked: Asked, timeout: float) -> Marks | Exception:
    try:
        found = within(timeout, lambda: reward(asked.prompt, asked.completions, asked.row))
    except Overrun:
        return RewardError(f"took longer than {timeout:g} s", remedy="make it faster, or raise its timeout")
    except SystemExit as error:  # of the reward alone, and not the end of a training
        return RewardError(f"SystemExit: {error}", remedy="let it return None where it has no score")
    except Exception as error:  # whatever a reward raises is counted, with its reason
        return error
    return found if isinstance(found, Marks) else Marks(found)


def _together(reward: Together, asked: Sequence[Asked]) -> Sequence[Marks | Exception]:
    try:
        return reward.together(asked) if asked else []
    except Exception as error:
        return [error] * len(asked)


def _reason(error: Exception) -> str:
    """One line, without the where and the remedy of our own errors."""
    text = error.fault.message if isinstance(error, LuthierError) else f"{type(error).__name__}: {error}"
    return (text.strip().splitlines() or [type(error).__name__])[0][:REASON]


def _number(score: Any) -> float | str:
    """The score, or why it is none."""
    if score is None:
        return "gave no score"
    try:
        value = float(score)
    except (TypeError, ValueError, OverflowError):
        return f"gave a {type(score).__name__} that is no number"
    return value if math.isfinite(value) else f"gave {value}"
