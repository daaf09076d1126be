"""Prompts to updates: answers drawn by the model as it is, judged, and laid out as trees that it learns from.

Enters: a stream of prompts, the model, what it was when it began, and a task that judges. Leaves: an endless, resumable iterator of
updates, as `training/batches.py` gives them. A round answers the prompts of one update or several; its answers are made into
updates once or several times. Every draw comes from (seed, round, place), so that a resumed run draws the same; a round that has begun
is in the stream's state.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from luthier.alignment.credit import Laid, Rollout, laid
from luthier.errors import LuthierError
from luthier.inference.generate import Sampling, generate
from luthier.inference.predict import evaluating
from luthier.models.batch import BRANCH, Batch, collate, size_of, within_budget
from luthier.models.forward import Layout
from luthier.models.logprobs import graded_states, logprobs_of
from luthier.models.reference import Began
from luthier.models.value import values_of
from luthier.tasks.policy import Policy, Question, tree
from luthier.training.batches import Heaviest, Update, UpdateStream

Array = NDArray[np.float64]
PATIENCE = 5
"""Rounds after which a reward that has never told answers apart is refused."""


class Chunk(NamedTuple):
    """Rollouts of one update, by their places in the round."""

    places: list[int]
    epoch: int
    ends_epoch: bool


@dataclass(frozen=True)
class Drawing:
    """How answers are drawn and read: what does not change from round to round."""

    tokenizer: Any
    layout: Layout
    stop_ids: Sequence[int]
    max_length: int
    max_tokens: int
    """Tokens a forward pass at most where nothing is learned."""
    seed: int


class Rollouts:
    """Iterates updates forever."""

    def __init__(
        self,
        prompts: UpdateStream,
        examples: Sequence[Mapping[str, Any]],
        questions: Sequence[Question],
        *,
        task: Policy,
        model: nn.Module,
        began: Began,
        drawing: Drawing,
        max_tokens: int,
    ) -> None:
        """`examples` hold each prompt's `input_ids`, `questions` what it asks; `max_tokens` bounds a forward pass that learns."""
        self._prompts, self._examples, self._questions = prompts, examples, questions
        self._task, self._model, self._began, self._drawing, self._max_tokens = task, model, began, drawing, max_tokens
        self._options = task.options
        self._round = self._place = self._dull = 0
        self._rollouts: list[Rollout] = []
        self._chunks: list[Chunk] = []
        self._drawn = self._same = 0
        self._earned: set[float] = set()
        """What answers have earned while rewards have told none apart, where each prompt has one answer."""
        self._laid: Laid | None = None

    @property
    def updates_per_epoch(self) -> int:
        return self._prompts.updates_per_epoch * self._options.iterations

    def heaviest(self, updates: int) -> Heaviest:
        """The batch of most tokens that there may be: the longest prompts, with the longest answers."""
        return self._prompts.heaviest(updates)

    def state_dict(self) -> dict[str, Any]:
        """Where the next update starts, with the answers of a round that is not over."""
        return {
            "prompts": self._prompts.state_dict(),
            "round": self._round,
            "place": self._place,
            "dull": self._dull,
            "drawn": [self._drawn, self._same],
            "earned": sorted(self._earned),
            "rollouts": [asdict(r) for r in self._rollouts],
            "chunks": [list(c) for c in self._chunks],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self._prompts.load_state_dict(state["prompts"])
        self._round, self._place, self._dull = state["round"], state["place"], state["dull"]
        self._drawn, self._same = state["drawn"]
        self._earned = set(state["earned"])
        self._rollouts = [Rollout(**r) for r in state["rollouts"]]
        self._chunks = [Chunk(*c) for c in state["chunks"]]
        self._laid = None

    def __iter__(self) -> Iterator[Update]:
        while True:
            if not self._chunks:
                self._draw()
            update = self._update()
            self._place += 1
            if self._place == len(self._chunks) * self._options.iterations:
                self._chunks, self._rollouts, self._laid, self._place = [], [], None, 0
            yield update

    # ── a round ────────────────────────────────────────────────────────────────────────────────

    def _draw(self) -> None:
        """Answer the prompts of the next updates. Raises LuthierError where rewards have never told answers apart."""
        self._chunks, self._rollouts, self._drawn, self._same = [], [], 0, 0
        for _ in range(self._options.ahead):
            turn = next(self._prompts.turns())
            found, ends = self._answered(turn.rows), turn.ends_epoch
            for _ in range(self._options.resample):
                told = [r for r in found if not r.uniform(self._options)]
                if len(told) == len(turn.rows):
                    break
                more = next(self._prompts.turns())
                others = self._answered(more.rows)
                ends |= more.ends_epoch
                found = (told + [r for r in others if not r.uniform(self._options)])[: len(turn.rows)] or others
            places = list(range(len(self._rollouts), len(self._rollouts) + len(found)))
            self._rollouts += found
            self._chunks.append(Chunk(places, turn.epoch, ends))
        self._round += 1
        self._dull = self._dull + 1 if self._dull >= 0 and self._nothing_told() else -1
        if self._dull == PATIENCE:
            value = next((r for o in self._rollouts for r in o.rewards), float("nan"))
            raise LuthierError(
                f"in the first {PATIENCE} rounds all answers to each prompt earned the same (the last {value:g}): nothing to learn from",
                where="task.rewards",
                remedy="give a reward that partly right answers reach, easier prompts, a higher temperature, or train on examples first",
            )
        self._measure()

    def _nothing_told(self) -> bool:
        options = self._options
        if options.completions > 1:
            return all(r.uniform(options) for r in self._rollouts)
        self._earned |= {value for r in self._rollouts for value in r.earned(options).tolist() if np.isfinite(value)}
        return len(self._earned) < 2

    def _answered(self, rows: Sequence[int]) -> list[Rollout]:
        """The prompts' answers, judged."""
        options, drawing = self._options, self._drawing
        wishes = [
            Sampling(
                max_new_tokens=options.max_new_tokens,
                temperature=options.temperature,
                seed=self._seed(self._drawn + i),
                candidates=options.completions,
            )
            for i in range(len(rows))
        ]
        written = generate(
            self._model,
            drawing.tokenizer,
            [self._examples[row]["input_ids"].tolist() for row in rows],
            wishes,
            stop_ids=drawing.stop_ids,
            max_length=drawing.max_length,
            max_tokens=drawing.max_tokens,
        )
        earned = self._task.judge([self._questions[row] for row in rows], [[a.text for a in answers] for answers in written])
        found = []
        for place, (row, answers) in enumerate(zip(rows, written, strict=True)):
            found.append(
                Rollout(
                    row=row,
                    answers=[[*a.tokens, *([] if a.stop_token is None else [a.stop_token])] for a in answers],
                    finished=[a.finish == "stop" for a in answers],
                    rewards=earned.total[place].tolist(),
                    parts={name: values[place].tolist() for name, values in earned.parts.items()},
                )
            )
        self._drawn += len(found)
        self._same += sum(r.uniform(options) for r in found)
        return found

    def _seed(self, place: int) -> int:
        digest = hashlib.sha256(f"{self._drawing.seed}/{self._round}/{len(self._chunks)}/{place}".encode()).digest()
        return int.from_bytes(digest[:7], "big")

    @torch.no_grad()
    def _measure(self) -> None:
        """Put log-probabilities and values beside the round's answers, in passes that nothing is learned from."""
        model, options, layout = self._model, self._options, self._drawing.layout
        old = options.ahead * options.iterations > 1 or options.penalised
        for rollout in self._rollouts:
            for name in ("old", "reference", "value"):
                setattr(rollout, name, [[] for _ in rollout.answers])
        device = next(model.parameters()).device
        with evaluating(model):
            for batch, owners in self._batches(list(range(len(self._rollouts))), self._drawing.max_tokens):
                moved = batch.to(device)

                def logprobs(at: Batch = moved) -> Tensor:
                    return logprobs_of(model, graded_states(model, at, layout), temperature=options.temperature)

                with self._began.again(model):
                    self._keep("reference", owners, logprobs())
                if not old:
                    continue
                states = graded_states(model, moved, layout)
                self._keep("old", owners, logprobs_of(model, states, temperature=options.temperature))
                if options.algorithm == "ppo":
                    self._keep("value", owners, values_of(model, states.hidden))

    def _keep(self, name: str, owners: Sequence[tuple[int, int]], values: Tensor) -> None:
        """Share a value for each graded token of a batch out to the answers that the tokens belong to."""
        sizes = [len(self._rollouts[place].answers[number]) for place, number in owners]
        for (place, number), part in zip(owners, values.cpu().split(sizes), strict=True):
            getattr(self._rollouts[place], name)[number] = part.tolist()

    # ── an update ──────────────────────────────────────────────────────────────────────────────

    def _batches(self, places: Sequence[int], max_tokens: int) -> Iterator[tuple[Batch, list[tuple[int, int]]]]:
        """Trees of some rollouts within the budget, and for each branch, as they lie, the rollout and the answer that it is."""
        trees = {p: tree(np.asarray(self._examples[r.row]["input_ids"]), r.answers) for p in places for r in [self._rollouts[p]]}
        layout, sizes = self._drawing.layout, [size_of(trees[p]) for p in places]
        for part in within_budget(places, sizes, max_tokens, padded=layout.kind == "padded"):
            batch = collate([trees[p] for p in part], part, types=layout.token_types)
            branches = batch.layers[BRANCH][batch.segments.starts].tolist()
            yield batch, [(row, branch - 1) for row, branch in zip(batch.rows, branches, strict=True) if branch]

    def _update(self) -> Update:
        """The next update of the round."""
        chunk = self._chunks[self._place % len(self._chunks)]
        last = self._place == len(self._chunks) * self._options.iterations - 1
        if self._laid is None:
            self._laid = laid(self._rollouts, self._options)
        told = self._told(chunk.places)
        batches = []
        for batch, owners in self._batches(chunk.places, self._max_tokens):
            targets = {
                name: torch.tensor(np.concatenate([values[place][number] for place, number in owners]), dtype=torch.float32)
                for name, values in self._laid.items()
            }
            batches.append(replace(batch, targets={**targets, "told": told}))
        ends = last and any(c.ends_epoch for c in self._chunks)
        return Update(tuple(batches), chunk.epoch, ends)

    def _told(self, places: Sequence[int]) -> Tensor:
        """The figures of an update's answers, in the order of `task.told`."""
        rollouts = [self._rollouts[p] for p in places]
        rewards = np.array([r.rewards for r in rollouts])
        known = np.isfinite(rewards)
        spread = [float(np.std([v for v in r.rewards if np.isfinite(v)] or [0.0])) for r in rollouts]
        parts = {f"reward_{n}": _mean_known(np.array([r.parts[n] for r in rollouts])) for n in rollouts[0].parts}
        found = {
            "reward": _mean_known(rewards),
            "reward_deviation": float(np.mean(spread)),
            "length": float(np.mean([len(a) for r in rollouts for a in r.answers])),
            "truncated": 1 - float(np.mean([f for r in rollouts for f in r.finished])),
            "zero_variance": self._same / max(1, self._drawn),
            "unscored": 1 - float(known.mean()),
            "age": float(self._place),
        } | parts
        return torch.tensor([found[name] for name in self._task.told], dtype=torch.float64)


def _mean_known(values: Array) -> float:
    known = np.isfinite(values)
    return float(values[known].mean()) if known.any() else 0.0
