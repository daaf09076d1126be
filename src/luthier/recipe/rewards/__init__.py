"""Options of each reward, one file a reward, torch-free; and `Rewards`, the field of a task that holds a list of them."""

from __future__ import annotations

from collections import Counter
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, SerializeAsAny

from luthier.recipe.choice import chosen
from luthier.recipe.rewards.options import RewardOptions
from luthier.registry import REWARD_OPTIONS


def _reward(value: Any) -> Any:
    return chosen(value, "reward", RewardOptions, REWARD_OPTIONS)


def _as_list(value: Any) -> Any:
    return [value] if isinstance(value, (str, dict, RewardOptions)) else value


def _told_apart(value: list[RewardOptions]) -> list[RewardOptions]:
    twice = [name for name, count in Counter(r.label for r in value).items() if count > 1]
    if twice:
        raise ValueError(f"two rewards are called {twice[0]!r}: give one of them a name")
    return value


Rewards = Annotated[
    list[Annotated[SerializeAsAny[RewardOptions], BeforeValidator(_reward)]], BeforeValidator(_as_list), AfterValidator(_told_apart)
]
"""A list of rewards, each a bare name or a section with a type; one of them alone is a list of one."""
