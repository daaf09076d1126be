"""Rows that are being written, together, with one key-value cache.

Enters: prompts in token ids and what is wished for each. Leaves: for each row its tokens so far, its text
as far as it is certain, and at the end a `Written`. `generate.py` decides which rows run together.
"""

from __future__ import annotations

import inspect
import secrets
from collections.abc import Collection, Hashable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase
from transformers.modeling_outputs import BaseModelOutput

from luthier.errors import ModelError
from luthier.inference.constraint import Constraint, Matcher
from luthier.inference.sampling import SEEDS, Sampling, draw, shape

CONTEXT = 8
"""Tokens of the prompt that are decoded with the answer, so that its first space is kept."""
BROKEN = "\ufffd"
"""How a decoder shows bytes that are no character, or not yet."""


@dataclass(frozen=True)
class Written:
    """One answer.

    `tokens` are those that were written, without the stop token; where a stop text ended the answer
    (`stop` says which) they spell it, while `text` is cut before it. `finish` is "length" when the
    room was used up. `logprobs` has a number for each token; `top_logprobs`, for each token, the
    likeliest (token, log-probability) pairs.
    """

    text: str
    tokens: tuple[int, ...]
    finish: Literal["stop", "length"]
    stop: str | None
    logprobs: tuple[float, ...] | None
    prompt_tokens: int
    top_logprobs: tuple[tuple[tuple[int, float], ...], ...] | None = None
    stop_token: int | None = None
    """The token that ended the answer, where one did."""


def is_pair(model: nn.Module) -> bool:
    """Whether the model has an encoder and a decoder."""
    return bool(model.config.is_encoder_decoder)  # type: ignore[union-attr]


def takes_padding(model: nn.Module) -> bool:
    """Whether prompts of different lengths may share a batch: a decoder counts its positions past padding only when told them."""
    return is_pair(model) or "position_ids" in inspect.signature(model.forward).parameters


def start_token(model: nn.Module) -> int:
    """What an encoder-decoder's answer starts with. Raises ModelError when its config does not say."""
    start = getattr(model.config, "decoder_start_token_id", None)
    if start is None:
        raise ModelError("its config has no decoder_start_token_id", where=type(model).__name__, remedy="set it as in training")
    return int(start)


def padded(prompts: Sequence[Sequence[int]], *, left: bool, fill: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Ids and attention mask, both (rows, longest)."""
    longest = max(len(p) for p in prompts)
    ids, mask = torch.full((len(prompts), longest), fill), torch.zeros(len(prompts), longest, dtype=torch.int64)
    for i, prompt in enumerate(prompts):
        place = slice(longest - len(prompt), None) if left else slice(len(prompt))
        ids[i, place], mask[i, place] = torch.tensor(prompt), 1
    return ids.to(device), mask.to(device)


class TextSoFar:
    """The text of one answer as its tokens come: only whole characters, up to the first stop text.

    A window of tokens is decoded with and without the newest ones, since what a token reads as may
    depend on those before it; the window moves on when their text is certain.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, before: Sequence[int], stops: tuple[str, ...]) -> None:
        self._tokenizer, self._stops, self._longest = tokenizer, stops, max(map(len, stops), default=0)
        self._ids, self._sent = list(before), 0
        self.value, self.stop = "", ""
        if self._decode(0, None).endswith(BROKEN):
            self._ids = []
        self._move(0, len(self._ids))

    def _decode(self, start: int, end: int | None) -> str:
        return self._tokenizer.backend_tokenizer.decode(self._ids[start:end], skip_special_tokens=True)  # type: ignore[attr-defined]

    def _move(self, start: int, end: int) -> None:
        self._start, self._end = start, end
        self._known = self._decode(start, end)

    def add(self, token: int | None) -> None:
        """Go on by a token; None says that there are no more, and what is left is certain."""
        if token is not None:
            self._ids.append(token)
        whole = self._decode(self._start, None)
        piece = whole[len(self._known) :]
        if not piece or (token is not None and whole.endswith(BROKEN)):
            return
        self._move(self._end, len(self._ids))
        old = len(self.value)
        self.value += piece
        found = [(at, stop) for stop in self._stops if (at := self.value.find(stop, max(0, old - self._longest + 1))) >= 0]
        if found:
            at, self.stop = min(found)
            self.value = self.value[:at]

    def fresh(self, *, last: bool) -> str:
        """What became certain since the last call: all but an end that may be the beginning of a stop text."""
        held = 0
        if not last:
            ends = range(min(self._longest - 1, len(self.value)), 0, -1)
            held = next((n for n in ends if any(stop.startswith(self.value[-n:]) for stop in self._stops)), 0)
        end = max(self._sent, len(self.value) - held)
        piece, self._sent = self.value[self._sent : end], end
        return piece


class Row:
    """One answer while it is written."""

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerBase,
        prompt: Sequence[int],
        sampling: Sampling,
        *,
        model: nn.Module,
        candidate: int,
        room: int,
        rule: Constraint | None,
        stop_ids: Collection[int],
    ) -> None:
        self.prompt, self.sampling, self.room, self.stop_ids = tuple(map(int, prompt)), sampling, room, stop_ids
        self.candidate, self.rule = candidate, rule
        self.before = (start_token(model),) if is_pair(model) else self.prompt
        """What the answer follows on: all that a penalty sees at first."""
        self.text = TextSoFar(tokenizer, self.before[-CONTEXT:], sampling.stop)
        self.generator: torch.Generator | None = None
        self.matcher: Matcher | None = None
        self.tokens: list[int] = []
        self.logprobs: list[float] = []
        self.tops: list[tuple[tuple[int, float], ...]] = []
        self.finish: Literal["stop", "length"] | None = None
        self.stop_token: int | None = None

    def begin(self, device: torch.device) -> None:
        """Make what is held only while the row is written: its random numbers and its place in the grammar."""
        seed = self.sampling.seed
        self.generator = torch.Generator(device)
        self.generator.manual_seed(secrets.randbelow(SEEDS) if seed is None else seed + self.candidate)
        if self.rule is not None:
            self.matcher = self.rule.matcher(self.stop_ids)
            if self.matcher.complete:
                self._close("stop")

    def take(self, token: int) -> bool:
        """Go on by the token drawn; whether it is part of the answer."""
        if token in self.stop_ids:
            self.stop_token = token
            self._close("stop")
            return False
        self.tokens.append(token)
        self.text.add(token)
        if self.matcher is not None:
            self.matcher.take(token)
        if self.text.stop or (self.matcher is not None and self.matcher.complete):
            self._close("stop")
        elif len(self.tokens) == self.room:
            self._close("length")
        return True

    def _close(self, finish: Literal["stop", "length"]) -> None:
        if not self.text.stop:
            self.text.add(None)
        self.finish = "stop" if self.text.stop else finish
        self.generator = self.matcher = None

    def written(self) -> Written:
        """The answer, when it is finished."""
        assert self.finish is not None, "the row is finished"
        wish = self.sampling
        return Written(
            text=self.text.value,
            tokens=tuple(self.tokens),
            finish=self.finish,
            stop=self.text.stop or None,
            logprobs=tuple(self.logprobs) if wish.logprobs else None,
            prompt_tokens=len(self.prompt),
            top_logprobs=tuple(self.tops) if wish.top_logprobs else None,
            stop_token=self.stop_token,
        )


class Running:
    """Rows that are written together, a token a step, over one key-value cache.

    A prompt is read once, however many rows answer it. Finished rows leave when they are an eighth of
    those held: dropping them copies the cache.
    """

    def __init__(self, model: nn.Module, rows: Sequence[Row]) -> None:
        self.model, self.rows = model, list(rows)
        self.device = next(model.parameters()).device
        for row in rows:
            row.begin(self.device)
        self.cache: Any = None
        self.seen: Tensor | None = None
        accepted = inspect.signature(model.forward).parameters
        self.positions = "position_ids" in accepted and not is_pair(model)
        self.extra: dict[str, Any] = {"logits_to_keep": 1} if "logits_to_keep" in accepted else {}

    @property
    def writing(self) -> bool:
        """Whether a row is unfinished."""
        return any(row.finish is None for row in self.rows)

    def step(self) -> None:
        """A token more for every unfinished row."""
        logits = self._read() if self.cache is None else self._follow()
        if bool(logits.isnan().any()):
            raise ModelError(
                "its scores for the next token are not numbers",
                where=type(self.model).__name__,
                remedy="use fp32, or an earlier checkpoint",
            )
        tokens = self._choose(logits)
        self._note(logits, tokens)
        self.last = torch.tensor(tokens, device=self.device)[:, None]
        if self.seen is not None:
            self.seen.scatter_(1, self.last, True)
        left = [i for i, row in enumerate(self.rows) if row.finish is None]
        if left and (len(self.rows) - len(left)) * 8 >= len(self.rows) > len(left):
            self._select(left)
            self.rows, self.last = [self.rows[i] for i in left], self.last[left]

    def _read(self) -> Tensor:
        """Read each different prompt once, then stand the rows on what was read; (rows, vocabulary)."""
        places = {prompt: i for i, prompt in enumerate(dict.fromkeys(row.prompt for row in self.rows))}
        ids, self.mask = padded(list(places), left=not is_pair(self.model), fill=0, device=self.device)
        self.read: Tensor | None = None
        if is_pair(self.model):
            self.read = self.model.get_encoder()(input_ids=ids, attention_mask=self.mask).last_hidden_state  # type: ignore[operator]
            ids = torch.full((len(ids), 1), start_token(self.model), device=self.device)
        logits = self._forward(ids, (self.mask.cumsum(1) - 1).clamp_min(0))
        if len(places) < len(self.rows):
            owner = [places[row.prompt] for row in self.rows]
            self._select(owner)
            logits = logits[owner]
        if any(row.sampling.repetition_penalty != 1 for row in self.rows):
            self.seen = torch.zeros_like(logits, dtype=torch.bool)
            for row, seen in zip(self.rows, self.seen, strict=True):
                seen[torch.tensor([t for t in row.before if t < len(seen)], dtype=torch.int64, device=self.device)] = True
        return logits

    def _follow(self) -> Tensor:
        """The scores after each row's last token, (rows, vocabulary)."""
        if self.read is None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(self.mask), 1)], 1)
        return self._forward(self.last, self.mask.sum(1, keepdim=True) - 1)

    def _forward(self, ids: Tensor, positions: Tensor) -> Tensor:
        inputs: dict[str, Any] = {"input_ids": ids, "attention_mask": self.mask, **self.extra}
        if self.read is not None:
            inputs = {
                "decoder_input_ids": ids,
                "attention_mask": self.mask,
                "encoder_outputs": BaseModelOutput(last_hidden_state=self.read),  # type: ignore[arg-type]
            }
        elif self.positions:
            inputs["position_ids"] = positions
        out = self.model(**inputs, past_key_values=self.cache, use_cache=True, return_dict=True)
        self.cache = out.past_key_values
        if self.cache is None:
            raise ModelError(
                "keeps no key-value cache", where=type(self.model).__name__, remedy="choose a model that can write token by token"
            )
        return out.logits[:, -1].float()

    def _select(self, places: list[int]) -> None:
        """Keep what is held for these rows, which may repeat."""
        index = torch.tensor(places, device=self.device)
        self.cache.reorder_cache(index)
        self.mask = self.mask[index]
        self.read = None if self.read is None else self.read[index]
        self.seen = None if self.seen is None else self.seen[index]

    def _choose(self, logits: Tensor) -> list[int]:
        """The next token of each row, 0 for finished ones; rows that ask for the same are shaped together."""
        alike: dict[Hashable, list[int]] = {}
        for i, row in enumerate(self.rows):
            if row.finish is None:
                wish = row.sampling
                key = (wish.repetition_penalty, wish.temperature, wish.top_k, wish.top_p, wish.min_p)
                alike.setdefault(key, []).append(i)
        tokens = [0] * len(self.rows)
        for places in alike.values():
            rows, wish = [self.rows[i] for i in places], self.rows[places[0]].sampling
            ruled = [row.matcher.allowed(logits.shape[1]) for row in rows if row.matcher is not None]
            scores = logits[places] if len(places) < len(self.rows) or ruled else logits
            if ruled:
                index = [n for n, row in enumerate(rows) if row.matcher is not None]
                scores[index] = scores[index].masked_fill(~torch.stack(ruled).to(self.device), -torch.inf)
            scores = shape(scores, wish, seen=None if self.seen is None else self.seen[places])
            chosen = (
                scores.argmax(-1) if wish.temperature == 0 else draw(scores, [row.generator for row in rows if row.generator is not None])
            )
            for i, token in zip(places, chosen.tolist(), strict=True):
                tokens[i] = token
        return tokens

    def _note(self, logits: Tensor, tokens: Sequence[int]) -> None:
        """Hand the tokens to their rows, with their log-probabilities where these are wanted."""
        for i, (row, token) in enumerate(zip(self.rows, tokens, strict=True)):
            if row.finish is None and row.take(token) and row.sampling.logprobs:
                logprobs = torch.log_softmax(logits[i], -1)
                row.logprobs.append(float(logprobs[token]))
                top = logprobs.topk(min(row.sampling.top_logprobs, len(logprobs)))
                row.tops.append(tuple(zip(top.indices.tolist(), top.values.tolist(), strict=True)))
