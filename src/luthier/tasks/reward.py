"""Reward: a score for an answer, higher for what people like better.

Enters: rows that compare answers, or call them good or bad. Leaves: trees, the prompt once with each of its answers after it; the
loss of how their rewards stand to each other; and a model with one value for a whole conversation, which judges answers
afterwards: those of a policy that learns from it, or those of two models that are compared.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record, need_columns
from luthier.data.rows import Row, Rows
from luthier.data.split import Part
from luthier.data.tokens import Encoded, assemble_tokens
from luthier.errors import DataError
from luthier.tasks.branches import joined, laid, table
from luthier.tasks.chat import CHUNK, Chat, backend_of, said
from luthier.tasks.comparisons import Comparison, comparison, need_named, recognise, unrated
from luthier.tasks.conversation import Conversation
from luthier.tasks.judged import lengths_of, nothing_left, pad_of, read_up_to, together
from luthier.tasks.rewarding import Appraiser, Rewards
from luthier.tasks.template import PLAIN, Renderer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.reward import RewardLoss, RewardOptions
    from luthier.tasks.judging import Judged

UNCLOSED = "{% set eos_token = '' %}" + PLAIN
"""For an encoder, whose tokenizer closes the whole text: plain turns, of which none is closed."""
LOSSES: dict[str, RewardLoss] = {"ranked": "plackett_luce", "unpaired": "logistic"}
TOLD = 0.6
"""Share of the pairs from which on it is told that the longer answer, or the shorter, is the better one."""


class Reward(Chat):
    """The task, with the format that its rows have and the most answers that one of them holds."""

    name = "reward"
    metric = "accuracy"
    writes = answers = converses = False
    baselines = ("length",)
    options: RewardOptions  # type: ignore[assignment]
    fewest_updates, fewest_epochs, most_epochs = 100, 1, 3
    rate, rate_width = 1e-4, 384
    reads = "a prompt with a completion or several, chosen and rejected, or messages"

    def __init__(self, options: RewardOptions, data: Data, *, format: str = "pairs", answers: int = 2) -> None:
        super().__init__(options, data, format=format)  # type: ignore[arg-type]
        self.answers_most = answers
        self.appraise = Appraiser(options, options.loss if options.loss != "auto" else LOSSES.get(format, "bradley_terry"))
        self.longer: float | None = None
        """Share of the training pairs in which the better answer is the longer one."""

    @classmethod
    def plan(cls, options: RewardOptions, data: Data, rows: dict[Part, Rows]) -> Reward:  # type: ignore[override]
        """Recognise the format. Raises DataError where the columns are those of none, or do not suit the loss, threshold or margin."""
        found = options.format if options.format != "auto" else recognise(rows["train"].rows, options.columns)
        task = cls(options, data, format=found, answers=0)
        loss = task.appraise.objective
        if found == "unpaired" and loss != "logistic":
            raise DataError(
                f"{loss} compares answers, and the rows have one each", where="task.loss", remedy="set it to logistic, or give pairs"
            )
        if found == "ranked" and loss == "logistic" and options.threshold is None:
            raise DataError(
                "logistic wants good and bad answers", where="task.threshold", remedy="say from which rating on an answer is good"
            )
        if found in ("pairs", "openai") and options.threshold is not None:
            raise DataError(f"rows of the format {found} have no ratings", where="task.threshold", remedy="take it out")
        if found in ("ranked", "unpaired") and options.margin is not None:
            raise DataError(f"a margin is for pairs, and the rows are {found}", where="task.margin", remedy="take it out")
        if faults := options.faults(loss):
            raise DataError("; ".join(faults), where="task", remedy="take it out, or choose another loss")
        for part in rows.values():
            need_columns(part, task.columns())
        need_named(options.columns, found, rows.values())  # other roles are read where answers are judged
        return task

    def columns(self) -> dict[str, str]:
        """The column of margins; formats have columns that may be missing from a row."""
        return {} if self.options.margin is None else {self.options.margin: "task.margin"}

    @property
    def outputs(self) -> int:
        """A reward for each answer of a record."""
        return self.answers_most

    def inferred(self) -> list[tuple[str, Any, str]]:
        """The format and the loss, where they were recognised."""
        found = super().inferred()
        return [*found, ("task.loss", self.appraise.objective, f"the format {self.format}")] if self.options.loss == "auto" else found

    def state(self) -> dict[str, Any]:
        """The format, and how many answers a row may have."""
        return {"format": self.format, "answers": self.answers_most}

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    def record(self, row: Row) -> Record | str:
        """The comparison; its text is the prompt."""
        options = self.options
        found = comparison(row.values, self.format, names=options.columns, system=options.system, threshold=options.threshold)
        if isinstance(found, str):
            return found
        if options.margin is not None:
            margin = row.values.get(options.margin)
            try:
                found = found._replace(margin=float(margin))  # type: ignore[arg-type]
            except (TypeError, ValueError, OverflowError):
                return f"margin: {margin!r} is no number"
            if not 0 <= found.margin < math.inf:
                return f"margin: {margin!r} is not 0 or more"
        self.answers_most = max(self.answers_most, len(found.answers))
        return Record("\n".join(said(m) for m in found.prompt), None, found, row.file, row.line)

    def texts(self, values: Mapping[str, Any]) -> Record | str:  # type: ignore[override]
        """The record of what is to be judged; a text is a row in JSON, or a conversation with its turns marked."""
        text = values.get(self.data.text)
        if set(values) == {self.data.text} and isinstance(text, str):
            values = {"completion": text}
            if text.lstrip()[:1] == "{":
                try:
                    values = json.loads(text)
                except (ValueError, RecursionError):
                    return "begins like a row in JSON, and is none"
        found = unrated(values, names=self.options.columns, system=self.options.system)
        return found if isinstance(found, str) else Record("\n".join(said(m) for m in found.prompt), None, found, "", 0)

    def fit(self, train: Sequence[Record]) -> None:
        """See whether length gives the better answer away. Raises DataError where all answers are good, or all are bad."""
        import numpy as np

        if self.appraise.objective == "logistic":
            kinds = {rating > 0 for r in train for rating in r.target.ratings}
            if len(kinds) == 1:
                raise DataError(
                    f"all {len(train)} answers are {'good' if kinds.pop() else 'bad'}: there is nothing to tell apart",
                    where="data.train",
                    remedy="give answers of both kinds; where labels are ratings, set task.threshold",
                )
            return
        ahead = [
            np.sign(a - b)
            for r in train
            for sizes in [lengths_of(r.target)]
            for a, better in zip(sizes, r.target.ratings, strict=True)
            for b, worse in zip(sizes, r.target.ratings, strict=True)
            if better > worse
        ]
        self.longer = float(np.mean(ahead) / 2 + 0.5)

    def noticed(self) -> list[str]:
        """Whether length gives the better answer away."""
        if self.longer is None or 1 - TOLD < self.longer < TOLD:
            return []
        share, kind = (self.longer, "longer") if self.longer > 0.5 else (1 - self.longer, "shorter")
        return [f"in {share:.0%} of the training pairs the better answer is the {kind} one: watch length_correlation"]

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """What everybody says."""
        return [said(m, role=False) for r in records for m in [*r.target.prompt, *(m for a in r.target.answers for m in a)]]

    def head(self, config: Any) -> Head:
        """One value for a whole conversation, with trees for batches."""
        from luthier.models.heads import Head

        return Head("classes", 1, ("reward",), "regression", trees=True)

    # ── records to examples ────────────────────────────────────────────────────────────────────

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Trees: what a prompt's conversations begin with, then the rest of each.

        Every conversation is rendered and tokenised whole, as servers do, and cut to `max_length`. A row that the template
        refuses or of whose answers nothing is left is rejected. Rows of one prompt that nobody has rated are one tree.
        """
        pad = pad_of(tokenizer, config)
        if pad is None and self.options.template is None and not tokenizer.chat_template:
            tokenizer.chat_template = UNCLOSED
        renderer, backend = self.renderer(tokenizer), backend_of(tokenizer)
        examples, owner, rejected = [], [], dict[int, str]()
        counts: Counter[str] = Counter()
        trees = together(records)
        for first in range(0, len(trees), CHUNK):
            shown = [
                [(i, t) for i in tree for t in self._written(records[i], renderer, rejected, i)] for tree in trees[first : first + CHUNK]
            ]
            encodings = iter(backend.encode_batch([text for tree in shown for _, text in tree], add_special_tokens=pad is None))
            for tree in shown:
                whole = [(index, next(encodings).ids) for index, _ in tree]
                ids: dict[int, list[Any]] = {}
                for index, sequence in whole:
                    ids.setdefault(index, []).append(read_up_to(sequence, max_length, pad))
                for index, own in list(ids.items()):
                    if reason := nothing_left(records[index], own, renderer, backend, max_length):
                        rejected[index] = reason
                        del ids[index]
                if ids:
                    counts["trees_cut"] += any(len(sequence) > max_length for _, sequence in whole)
                    answers = [a for own in ids.values() for a in own]
                    self.answers_most = max(self.answers_most, len(answers))
                    most = min(map(len, answers)) - 1  # every branch keeps the place where its reward is read
                    examples.append(joined([{"input_ids": a} for a in answers], range(1, len(answers) + 1), most=most))
                    owner.append(next(iter(ids)))
        return Encoded(assemble_tokens(examples, owner=owner, truncated=counts["trees_cut"]), rejected, counts)

    def _written(self, record: Record, renderer: Renderer, rejected: dict[int, str], index: int) -> list[str]:
        """The conversation with each answer; none where one is refused."""
        found: Comparison = record.target
        talks = [replace(record, target=Conversation([*found.prompt, *answer], found.tools)) for answer in found.answers]
        shown = [self._shown(talk, renderer, renderer.write, rejected, index) for talk in talks]
        return [] if any(text is None for text in shown) else [text for text in shown if text is not None]

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def gold(self, records: Sequence[Record]) -> NDArray[np.float64]:
        """Ranks of the answers, -1 where there is none; their lengths in characters; and the margin: (records, 2 * answers + 1)."""
        import numpy as np

        wide = self.answers_most
        found = np.zeros((len(records), 2 * wide + 1))
        found[:, :wide] = -1
        for line, record in zip(found, records, strict=True):
            ratings = record.target.ratings
            logistic = self.appraise.objective == "logistic"
            line[: len(ratings)] = [float(r > 0) for r in ratings] if logistic else np.unique(ratings, return_inverse=True)[1]
            line[wide : wide + len(ratings)] = lengths_of(record.target)
            line[-1] = record.target.margin
        return found

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """Ranks and margin of each record, as `gold` has them."""
        import torch

        found = torch.from_numpy(self.gold(records))
        return {"ranks": found[:, : self.answers_most].long(), "margin": found[:, -1].float()}

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss function, weighed by rows; `parts` are what the log shows of them."""
        from luthier.models.batch import Loss
        from luthier.models.forward import pooled_logits

        def loss(model: nn.Module, batch: Batch) -> Loss:
            places, _ = table(batch, self.answers_most)
            first = places.max(1).values
            rewards = laid(pooled_logits(model, batch, layout).float()[:, 0], places)
            judged = self.appraise(Rewards(batch.targets["ranks"][first], rewards, batch.targets["margin"][first]))
            parts = {name: float(value.sum()) for name, value in judged.parts.items()}
            return Loss(judged.loss.sum(), float(judged.weight.sum()), parts)

        return loss

    def answer(self, layout: Layout) -> Callable[[nn.Module, Batch], Tensor]:
        """For each segment the rewards of its row, (segments, answers); the model's own value for texts that are no trees."""
        from luthier.models.batch import BRANCH
        from luthier.models.forward import pooled_logits

        def answer(model: nn.Module, batch: Batch) -> Tensor:
            found = pooled_logits(model, batch, layout).float()
            if BRANCH not in batch.layers:
                return found
            places, rows = table(batch, self.answers_most)
            return laid(found[:, 0], places)[rows]

        return answer

    def combine(self, records: Sequence[Record]) -> Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]] | None:
        """How the rewards of a tree come to the rows that it was made of; None where each row is one."""
        import numpy as np

        trees = together(records)
        if len(trees) == len(records):
            return None

        def combined(found: NDArray[np.float64], owner: NDArray[np.int64]) -> NDArray[np.float64]:
            lines = np.zeros((len(records), found.shape[1]))
            for line, tree in zip(found, trees, strict=True):
                if len(tree) == 1:
                    lines[tree[0]] = line
                else:
                    lines[tree, 0] = line[: len(tree)]
            return lines

        return combined

    # ── outputs to predictions and scores ──────────────────────────────────────────────────────

    def decode(self, outputs: NDArray[np.float64], records: Sequence[Record]) -> list[dict[str, Any]]:
        """The reward of an answer; those of several with the best; those of a pair with how far they are apart."""
        found: list[dict[str, Any]] = []
        for record, line in zip(records, outputs, strict=True):
            rewards = [float(v) for v in line[: len(record.target.answers)]]
            if record.target.ratings:
                a, b = rewards
                better = "chosen" if a > b else "rejected" if b > a else "neither"
                found.append({"chosen": a, "rejected": b, "margin": a - b, "better": better})
            elif len(rewards) == 1:
                found.append({"reward": rewards[0]})
            else:
                found.append({"rewards": rewards, "best": max(range(len(rewards)), key=rewards.__getitem__)})
        return found

    def baseline(self, name: str, train: Sequence[Record], records: Sequence[Record]) -> NDArray[np.float64]:
        """Rewards that length alone gives: its logarithm, so that strengths (Bradley and Terry 1952) are lengths."""
        import numpy as np

        wide = self.answers_most
        return np.asarray(np.log(self.gold(records)[:, wide : 2 * wide].clip(1)))

    def _rewards(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> tuple[Rewards, Tensor]:
        """Rewards as they are judged, and the lengths of the answers."""
        import torch

        ranks, lengths, margin = torch.from_numpy(gold).split([outputs.shape[1], outputs.shape[1], 1], 1)
        return Rewards(ranks.long(), torch.from_numpy(outputs), margin[:, 0]), lengths

    def _judged(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> Judged:
        return self.appraise(self._rewards(gold, outputs)[0])

    def scores(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """How often the better answer has the higher reward, by how much, and how rewards go with length."""
        return self.appraise.scores(*self._rewards(gold, outputs))

    def row_loss(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each row's loss, for paired tests."""
        import numpy as np

        return np.asarray(self._judged(gold, outputs).loss.numpy())

    def predictions(self, records: Sequence[Record], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
        """For each record its best answer, the rating and the reward of each, and the rank of the one with the highest reward."""
        found = []
        for record, line in zip(records, outputs, strict=True):
            ratings = list(record.target.ratings)
            rewards = [float(v) for v in line[: len(ratings)]]
            ahead = max(range(len(rewards)), key=rewards.__getitem__)
            found.append(
                {
                    "target": self.graded_text(record)[:2000],
                    "ratings": ratings,
                    "rewards": rewards,
                    "rank": 1 + sum(r > ratings[ahead] for r in ratings),
                }
            )
        return found

    def graded_text(self, record: Record) -> str:
        """The answer that is rated highest."""
        found: Comparison = record.target
        best = max(range(len(found.ratings)), key=found.ratings.__getitem__)
        return "\n".join(said(m, role=False) for m in found.answers[best])

    def text_scorer(self) -> None:  # type: ignore[override]
        """Nothing is written."""
