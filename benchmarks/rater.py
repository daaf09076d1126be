"""A rater who follows a hidden rule, in the place of people: for tests, and for the whole loop of preferences.

    python benchmarks/rater.py [--count 1000] [--noise 0.1] [--store rated.db]

The rule: of two stories the better one has more words of joy, less those of sorrow, for each hundred words; where both have the
same, it is a tie. With the chance `noise` the rater picks the other one; which pairs that hits depends on the seed and the pair
alone. The pairs are the starter's, two answers to each of as many prompts as are asked for, and all of it goes into a store of
feedback: `luthier feedback export STORE pairs.jsonl` makes training rows. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import hashlib
import itertools
import json
import random
import re
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from luthier.feedback.store import Made, Said, Store
from luthier.inference.sampling import Sampling
from luthier.models.source import resolve
from luthier.recipe.sections import Model
from luthier.workflow.answers import Author, Duel

JOY = {
    "happy",
    "happily",
    "joy",
    "fun",
    "love",
    "loved",
    "loves",
    "smile",
    "smiled",
    "smiling",
    "laugh",
    "laughed",
    "friend",
    "friends",
    "play",
    "played",
    "playing",
    "nice",
    "kind",
    "good",
}
SORROW = {
    "sad",
    "sadly",
    "cry",
    "cried",
    "crying",
    "afraid",
    "scared",
    "fear",
    "angry",
    "hurt",
    "lost",
    "alone",
    "dark",
    "bad",
    "mean",
    "died",
    "worried",
    "sorry",
}
ANIMALS = [
    "fox",
    "dog",
    "cat",
    "bear",
    "duck",
    "mouse",
    "frog",
    "fish",
    "bird",
    "horse",
    "cow",
    "pig",
    "rabbit",
    "lion",
    "owl",
    "wolf",
    "hen",
    "goat",
    "bee",
    "sheep",
]
PLACES = [
    "in the rain",
    "by the sea",
    "in the woods",
    "on a farm",
    "in the snow",
    "at a party",
    "in a big house",
    "near a river",
    "in the park",
    "on a hill",
]
THINGS = ["a ball", "a hat", "a red kite", "an old book", "a new friend", "a boat", "a cake", "a little star", "a drum", "a flower"]


def joy(text: str) -> float:
    """The hidden rule's score of a text: words of joy less words of sorrow, for each hundred words."""
    words = re.findall(r"[a-z']+", text.lower())
    return 100 * sum((w in JOY) - (w in SORROW) for w in words) / max(1, len(words))


@dataclass(frozen=True)
class Rater:
    """Picks by the rule, and the wrong one with the chance `noise`."""

    noise: float = 0.1
    seed: int = 0
    name: str = "rater"

    def right(self, pair: Made) -> int | str:
        """The better answer by the rule, or a tie."""
        first, second = map(joy, pair.content["answers"])
        return "tie" if first == second else int(second > first)

    def picks(self, pair: Made) -> int | str:
        """What the rater says."""
        right = self.right(pair)
        chance = int.from_bytes(hashlib.sha256(f"{self.seed}\x1f{pair.item}".encode()).digest()[:6], "big") / 2**48
        return 1 - right if isinstance(right, int) and chance < self.noise else right

    def rate(self, store: Store, pairs: list[Made]) -> int:
        """Say of all pairs which one is better; how many of those are choices."""
        said = [Said("choice", p.content, self.name, {"picked": self.picks(p), "order": [0, 1]}, "starter") for p in pairs]
        return sum(isinstance(e.payload["picked"], int) for e in store.extend(said).entries)


def prompts(count: int, *, seed: int = 0) -> list[str]:
    """Different requests for stories, in an order by the seed."""
    every = [f"Tell me a short story about a {a} and {t} {p}." for a, t, p in itertools.product(ANIMALS, THINGS, PLACES)]
    random.Random(seed).shuffle(every)
    return every[:count]


def starter(store: Store, *, max_new_tokens: int = 64, seed: int = 0) -> Duel:
    """Makes pairs of different answers of the starter; from the store where they are there."""
    sampling = Sampling(max_new_tokens=max_new_tokens, temperature=1.0, top_p=0.95, seed=seed)
    return Duel(store, Author("starter", resolve(Model(name="starter"))), None, sampling, batch=32)


def comparable(pairs: Iterable[Made]) -> list[Made]:
    """Those whose answers say something, and not the same."""
    return [p for p in pairs if all(p.content["answers"]) and len(set(p.content["answers"])) == 2]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--count", type=int, default=1000)
    parser.add_argument("--noise", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", type=Path, default=Path("rated.db"))
    given = parser.parse_args()
    rater, begun, choices, pairs = Rater(noise=given.noise, seed=given.seed), time.perf_counter(), 0, []
    with Store(given.store) as store:
        duel = starter(store, seed=given.seed)
        asked = iter(prompts(2000, seed=given.seed))
        while choices < given.count and (batch := list(itertools.islice(asked, max(32, given.count - choices)))):
            made = comparable(duel.pairs(batch))
            wanted = [p for p in made if rater.right(p) != "tie"][: given.count - choices]
            kept = [p for p in made if rater.right(p) == "tie"] + wanted
            choices += rater.rate(store, kept)
            pairs += kept
    decided = [p for p in pairs if rater.right(p) != "tie"]
    wrong = sum(rater.picks(p) != rater.right(p) for p in decided)
    seconds = round(time.perf_counter() - begun, 1)
    print(f"{choices} choices and {len(pairs) - choices} ties in {given.store}, {wrong} choices against the rule")
    print(json.dumps({"choices": choices, "ties": len(pairs) - choices, "wrong": wrong, "seconds": seconds}))


if __name__ == "__main__":
    main()
