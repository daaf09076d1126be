"""From logits to a token: the penalty, the cuts and the draw, as pure functions.

Enters: logits, (vocabulary,) or (rows, vocabulary), and what a request asks of them (`Sampling`). Leaves:
shaped logits of the same shape, and tokens. Meaning and order follow transformers' logits processors:
repetition penalty, temperature, top-k, top-p, min-p.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

from luthier.errors import Fault, RecipeError

SEEDS = 1 << 63
"""Seeds lie below this number."""


@dataclass(frozen=True)
class Sampling:
    """How a request is answered.

    At temperature 0 each token is the likeliest one, and `top_k`, `top_p`, `min_p` and `seed` decide
    nothing. `stop` are texts that end the answer and are cut from it. Candidates are drawn with `seed`,
    `seed` + 1, ...; without a seed, afresh. With `logprobs` the answer carries each token's
    log-probability under the model as it is (before penalty, temperature, cuts and constraint), and
    those of the `top_logprobs` likeliest. Raises RecipeError with all faults together.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None
    min_p: float | None = None
    repetition_penalty: float = 1.0
    stop: tuple[str, ...] = ()
    seed: int | None = None
    candidates: int = 1
    logprobs: bool = False
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        share = "give a number above 0 and at most 1, or None"
        found = [
            self._fault("max_new_tokens", _whole(self.max_new_tokens, 1), "give a whole number from 1"),
            self._fault("temperature", _number(self.temperature, 0, math.inf), "give 0 for the likeliest token, or a number above"),
            self._fault("top_k", self.top_k is None or _whole(self.top_k, 1), "give a whole number from 1, or None"),
            self._fault("top_p", self.top_p is None or (_number(self.top_p, 0, 1) and self.top_p > 0), share),
            self._fault("min_p", self.min_p is None or _number(self.min_p, 0, 1), "give a number from 0 to 1, or None"),
            self._fault(
                "repetition_penalty",
                _number(self.repetition_penalty, 0, math.inf) and self.repetition_penalty > 0,
                "give 1 for none, or a number above to repeat less",
            ),
            self._fault(
                "stop",
                isinstance(self.stop, tuple) and all(isinstance(s, str) and s for s in self.stop),
                "give a tuple of texts, none of them empty",
            ),
            self._fault(
                "seed", self.seed is None or (_whole(self.seed, 0) and self.seed < SEEDS), "give a whole number from 0 below 2**63, or None"
            ),
            self._fault("candidates", _whole(self.candidates, 1), "give a whole number from 1"),
            self._fault("top_logprobs", _whole(self.top_logprobs, 0), "give a whole number from 0"),
            self._fault("top_logprobs", bool(self.logprobs or not self.top_logprobs), "set logprobs to True with it"),
        ]
        if faults := [fault for fault in found if fault is not None]:
            raise RecipeError(faults)

    def _fault(self, name: str, fine: bool, remedy: str) -> Fault | None:
        return None if fine else Fault(f"cannot be {getattr(self, name)!r}", f"sampling.{name}", remedy)


def _whole(value: object, low: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= low


def _number(value: object, low: float, high: float) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and low <= value <= high


def penalize(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make tokens that were seen less likely (Keskar et al. 2019, sec. 4.1); `seen` is bool, shaped like the logits."""
    return torch.where(seen, torch.where(logits < 0, logits * penalty, logits / penalty), logits)


def keep_top_k(logits: Tensor, k: int) -> Tensor:
    """-inf for all but the k likeliest tokens; ties with the last are kept (Fan et al. 2018)."""
    last = logits.topk(min(k, logits.shape[-1]), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < last, -math.inf)


def keep_top_p(logits: Tensor, p: float) -> Tensor:
    """-inf for all but the fewest likeliest tokens that together reach probability p; ties with the last are kept.

    Nucleus sampling (Holtzman et al. 2020). Tokens of at most (1 - p) / vocabulary are never among them,
    since all such together have at most 1 - p: only the others are sorted.
    """
    if p >= 1:
        return logits
    probabilities = torch.softmax(logits, -1)
    likely = int((probabilities > (1 - p) / logits.shape[-1]).sum(-1).max())
    top = probabilities.topk(max(1, likely), dim=-1).values
    before = F.pad(top.cumsum(-1)[..., :-1], (1, 0))
    count = (before < p).sum(-1, keepdim=True)
    return logits.masked_fill(probabilities < top.gather(-1, count - 1), -math.inf)


def keep_min_p(logits: Tensor, p: float) -> Tensor:
    """-inf for tokens less likely than p times the likeliest (Nguyen et al. 2024)."""
    probabilities = torch.softmax(logits, -1)
    return logits.masked_fill(probabilities < p * probabilities.amax(-1, keepdim=True), -math.inf)


def shape(logits: Tensor, sampling: Sampling, *, seen: Tensor | None = None) -> Tensor:
    """The logits that are drawn from; at temperature 0 only the penalty applies. `seen` is needed with a penalty."""
    if sampling.repetition_penalty != 1.0:
        assert seen is not None, "a penalty needs the tokens seen"
        logits = penalize(logits, seen, sampling.repetition_penalty)
    if sampling.temperature == 0:
        return logits
    logits = logits / sampling.temperature
    if sampling.top_k is not None:
        logits = keep_top_k(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = keep_top_p(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = keep_min_p(logits, sampling.min_p)
    return logits


def draw(logits: Tensor, generators: Sequence[torch.Generator]) -> Tensor:
    """A token for each row, (rows, vocabulary) -> (rows,), from the row's own generator.

    Of exponential arrival times with rates p, the first is token i with probability p_i. Each token has
    its own number, so rounding in the logits, which depends on the rows beside, almost never changes
    the outcome; in a cumulative sum it would move every border. Double precision, so that a rare token
    does not win by a number rounded to 0.
    """
    chosen = []
    uncut = torch.isfinite(logits).all(1).tolist()
    space = torch.empty(logits.shape[1], dtype=torch.float64, device=logits.device)
    for row, whole, generator in zip(logits, uncut, generators, strict=True):
        kept = None if whole else torch.isfinite(row).nonzero()[:, 0]
        scores = row if kept is None else row[kept]
        race = space[: len(scores)].exponential_(generator=generator)
        first = (scores - race.log_()).argmax()
        chosen.append(first if kept is None else kept[first])
    return torch.stack(chosen)
