"""Sharing rows out to train, validation and test: stratified, and with repeats on one side.

Enters: for each record a content key (repeats share it) and a stratum (its label). Leaves: a part
for each record. The part of a key depends on the seed and the key alone within its stratum, not on
the order of the rows.
"""

from __future__ import annotations

import hashlib
import math
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

Part = Literal["train", "validation", "test"]


def content_key(*texts: str | None) -> str:
    """A key that texts share when they differ only in case, width and white space."""
    folded = ["" if t is None else " ".join(unicodedata.normalize("NFKC", t).casefold().split()) for t in texts]
    return hashlib.sha256("\x1f".join(folded).encode()).hexdigest()


def linked(keys: Sequence[str], groups: Sequence[str]) -> list[str]:
    """Keys under which rows stay together that share a key or a group, directly or by way of others; "" is no group."""
    above: dict[tuple[str, str], tuple[str, str]] = {}

    def root(name: tuple[str, str]) -> tuple[str, str]:
        while (higher := above.setdefault(name, name)) != name:
            above[name] = above[higher]
            name = higher
        return name

    for key, group in zip(keys, groups, strict=True):
        if group:
            low, high = sorted((root(("key", key)), root(("group", group))))
            above[high] = low
    return ["\x1f".join(root(("key", key))) for key in keys]


def drawn_first(places: Sequence[int], keys: Sequence[str], seed: int) -> list[int]:
    """Places in an order drawn from the seed and the keys alone; equal keys by place."""
    return sorted(places, key=lambda p: (hashlib.sha256(f"{seed}\x1f{keys[p]}".encode()).digest(), p))


def split(keys: Sequence[str], strata: Sequence[str], *, validation: float, test: float, seed: int) -> list[Part]:
    """Assign each record a part.

    Groups of equal keys go together, under the stratum most of them have. Within a stratum, groups
    are dealt in an order drawn from the seed; shares are met to within one group, and rounding is
    carried from stratum to stratum so that the whole meets them too.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for index, key in enumerate(keys):
        members[key].append(index)
    by_stratum: dict[str, list[str]] = defaultdict(list)
    for key, indices in members.items():
        by_stratum[Counter(strata[i] for i in indices).most_common(1)[0][0]].append(key)
    parts: list[Part] = ["train"] * len(keys)
    owed = {"test": 0.0, "validation": 0.0}
    for stratum in sorted(by_stratum):
        groups = sorted(by_stratum[stratum], key=lambda k: hashlib.sha256(f"{seed}\x1f{k}".encode()).digest())
        total, place = sum(len(members[k]) for k in groups), 0
        for part, share in (("test", test), ("validation", validation)):
            owed[part] += total * share
            wanted = min(math.floor(owed[part] + 0.5), total - 1)
            given = 0
            while given < wanted and place < len(groups) - 1:
                size = len(members[groups[place]])
                if given and given + size - wanted > wanted - given:
                    break
                for index in members[groups[place]]:
                    parts[index] = part  # type: ignore[call-overload]
                given, place = given + size, place + 1
            owed[part] -= given
    return parts


def split_by_time(keys: Sequence[str], times: Sequence[float], *, validation: float, test: float) -> list[Part]:
    """Assign each record a part: the newest are for testing, those before them for validation, the oldest for training.

    Groups of equal keys go together, at the time of their newest record; groups of one time are not parted.
    """
    newest: dict[str, float] = {}
    sizes: Counter[float] = Counter()
    for key, time in zip(keys, times, strict=True):
        newest[key] = max(time, newest.get(key, time))
    for key in keys:
        sizes[newest[key]] += 1
    of_time: dict[float, Part] = {}
    seen, bounds = 0, (("test", test * len(keys)), ("validation", (test + validation) * len(keys)))
    for time in sorted(sizes, reverse=True):
        middle = seen + sizes[time] / 2
        of_time[time] = next((part for part, bound in bounds if middle < bound), "train")  # type: ignore[misc]
        seen += sizes[time]
    return [of_time[newest[key]] for key in keys]


def kept_to(parts: Sequence[Part], keys: Sequence[str], own: Sequence[str], saved: Mapping[str, Part]) -> list[Part]:
    """The parts, but for records that were dealt before: they keep theirs, and new ones of their group follow them.

    `keys` are those of groups, `own` those of the records' contents, which `saved` knows. A group that was parted
    already is followed to its test side, so that nothing which is new is trained on beside what is tested.
    """
    order = {"test": 0, "validation": 1, "train": 2}
    followed: dict[str, Part] = {}
    for key, content in zip(keys, own, strict=True):
        part = saved.get(content)
        if part is not None and order[part] <= order[followed.get(key, "train")]:
            followed[key] = part
    return [saved.get(content) or followed.get(key) or part for part, key, content in zip(parts, keys, own, strict=True)]
