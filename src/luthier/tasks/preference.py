"""Preference: learning from which answers people like better.

Enters: rows that compare answers, or call them good or bad. Leaves: trees, the prompt once with each of its answers after it;
losses of how the answers' log-probabilities stand to each other and to those under the model as it began; and afterwards how
often, and by how much, the preferred answer is ahead.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record
from luthier.data.rows import Row, Rows
from luthier.data.split import Part
from luthier.data.tokens import UNGRADED, Encoded, assemble_tokens
from luthier.errors import DataError
from luthier.tasks.branches import LAST, joined, laid, table
from luthier.tasks.chat import Chat, backend_of, said, tokens_of
from luthier.tasks.comparisons import READ, Comparison, comparison, need_named, recognise
from luthier.tasks.conversation import Conversation
from luthier.tasks.judging import Figures, Judge
from luthier.tasks.template import Renderer

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.models.reference import Began
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.preference import PreferenceOptions


class Preference(Chat):
    """The task, with the format that its rows have and the most answers that one of them holds."""

    name = "preference"
    metric = "accuracy"
    options: PreferenceOptions  # type: ignore[assignment]
    fewest_updates, fewest_epochs, most_epochs = 100, 1, 3
    rate = 2e-5

    def __init__(self, options: PreferenceOptions, data: Data, *, format: str = "pairs", answers: int = 2) -> None:
        super().__init__(options, data, format=format)  # type: ignore[arg-type]
        self.answers_most = answers
        self.objective = options.loss if options.loss != "auto" else "kto" if format == "unpaired" else "sigmoid"
        self.judge = Judge(options, self.objective)
        self.began: Began | None = None
        self.new = False
        """Whether it is about to be trained, so that what it measures against will be there."""
        self.references_of: dict[tuple[str, int], NDArray[np.float64]] = {}
        """The starting model's log-probabilities of each record's answers, where they were computed before."""

    @classmethod
    def plan(cls, options: PreferenceOptions, data: Data, rows: dict[Part, Rows]) -> Preference:  # type: ignore[override]
        """Recognise the format. Raises DataError where the columns are those of none, or do not suit the loss or the threshold."""
        found = options.format if options.format != "auto" else recognise(rows["train"].rows, options.columns)
        task = cls(options, data, format=found, answers=0)
        task.new = True
        if found == "unpaired" and task.objective != "kto":
            raise DataError(
                f"{task.objective} compares answers, and the rows have one each", where="task.loss", remedy="set it to kto, or give pairs"
            )
        if found == "ranked" and task.objective == "kto" and options.threshold is None:
            raise DataError("kto wants good and bad answers", where="task.threshold", remedy="say from which rating on an answer is good")
        if found in ("pairs", "openai") and options.threshold is not None:
            raise DataError(f"rows of the format {found} have no ratings", where="task.threshold", remedy="take it out")
        faults = options.faults(task.objective)
        faults += [f"columns.{role} is not read by the format {found}" for role in options.columns if role not in READ[found]]
        if faults:
            raise DataError("; ".join(faults), where="task", remedy="take it out, or choose another loss or format")
        need_named(options.columns, found, rows.values())
        return task

    @property
    def referenced(self) -> bool:
        """Whether the loss measures against the model as it began."""
        return self.judge.referenced

    @property
    def columns_wide(self) -> int:
        """Columns of figures: an answer each, and in kto one to another prompt."""
        return self.answers_most + (self.objective == "kto")

    @property
    def outputs(self) -> int:
        """Figures of each record: log-probabilities and graded tokens."""
        return 2 * self.columns_wide

    def inferred(self) -> list[tuple[str, Any, str]]:
        """The format and the loss, where they were recognised."""
        found = super().inferred()
        return [*found, ("task.loss", self.objective, f"the format {self.format}")] if self.options.loss == "auto" else found

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
        self.answers_most = max(self.answers_most, len(found.answers))
        return Record("\n".join(said(m) for m in found.prompt), None, found, row.file, row.line)

    def fit(self, train: Sequence[Record]) -> None:
        """Raises DataError where all answers are good, or all are bad."""
        if self.objective != "kto":
            return
        kinds = {rating > 0 for r in train for rating in r.target.ratings}
        if len(kinds) == 1:
            raise DataError(
                f"all {len(train)} answers are {'good' if kinds.pop() else 'bad'}: there is nothing to tell apart",
                where="data.train",
                remedy="kto needs answers of both kinds; where labels are ratings, set task.threshold",
            )

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """What everybody says."""
        return [said(m, role=False) for r in records for m in [*r.target.prompt, *(m for a in r.target.answers for m in a)]]

    def head(self, config: Any) -> Head:
        """A decoder's own head, with trees for batches."""
        from luthier.models.heads import Head

        return Head("causal", trees=True)

    # ── records to examples ────────────────────────────────────────────────────────────────────

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Trees: what a row's conversations begin with, up to the last token before an answer, then the rest of each.

        Every conversation is rendered and tokenised whole, as servers do, so that sharing changes no token. In kto the last
        branch is an answer to another prompt. A row that the template refuses or of whose answers nothing is left is rejected.
        """
        renderer = self.renderer(tokenizer)
        examples, owner, rejected = [], [], dict[int, str]()
        counts: Counter[str] = Counter()
        before = elsewhere(records) if self.objective == "kto" else []
        for index, record in enumerate(records):
            answers = record.target.answers
            sequences = self._sequences(record, answers, renderer, tokenizer, max_length, counts)
            if isinstance(sequences, str):
                rejected[index] = sequences
                continue
            numbers, place = list(range(1, len(answers) + 1)), index
            if before:
                numbers.append(LAST)
                other: list[tuple[Any, Any]] | str = ""
                for _ in records:
                    place = before[place]
                    other = self._sequences(record, records[place].target.answers[:1], renderer, tokenizer, max_length, Counter())
                    if not isinstance(other, str):  # else its own row is rejected for it
                        break
                sequences.append(sequences[0] if isinstance(other, str) else other[0])
            examples.append(tree(sequences, numbers))
            owner.append(index)
        return Encoded(assemble_tokens(examples, owner=owner, truncated=counts["rows_cut"]), rejected, counts)

    def _sequences(
        self,
        record: Record,
        answers: Sequence[list[dict[str, Any]]],
        renderer: Renderer,
        tokenizer: Any,
        max_length: int,
        counts: Counter[str],
    ) -> list[tuple[Any, Any]] | str:
        """(ids, labels) of the prompt with each answer, cut to `max_length`; or why there are none."""
        import numpy as np

        found: Comparison = record.target
        shown, faults = [], dict[int, str]()
        for answer in answers:
            talk = replace(record, target=Conversation([*found.prompt, *answer], found.tools))
            made = self._rendered(talk, renderer, faults, 0)
            if made is None:
                return faults[0]
            shown.append(made)
        encodings = backend_of(tokenizer).encode_batch([s.text for s in shown], add_special_tokens=False)
        whole = []
        for made, encoding in zip(shown, encodings, strict=True):
            learned = [s for s in made.spans if s.turn >= len(found.prompt)]
            whole.append((np.array(encoding.ids), tokens_of(learned, made, np.array(encoding.offsets).reshape(-1, 2))))
            counts.update(turns=len(learned), turns_graded=len(learned), contexts_changed=sum(not s.same_context for s in learned))
        counts["rows"] += 1
        counts["rows_cut"] += any(len(ids) > max_length + 1 for ids, _ in whole)
        counts["answers_cut"] += any(bool(graded[max_length + 1 :].any()) for _, graded in whole)
        sequences = []
        for ids, graded in whole:
            cut = len(ids) > max_length + 1
            ids, graded = ids[: max_length + 1], graded[: max_length + 1]
            labels = np.where(graded[1:], ids[1:], UNGRADED)
            if (labels == UNGRADED).all():
                return f"its answers lie beyond the {max_length} tokens that fit" if cut else "nothing in an answer is graded"
            sequences.append((ids[:-1], labels))
        own = sequences[: len(found.answers)]
        for i, (ids, labels) in enumerate(own):
            if any(np.array_equal(ids, a) and np.array_equal(labels, b) for a, b in own[:i]):
                return f"its answers are the same in the {max_length} tokens that fit"
        return sequences

    def ask(self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int) -> list[list[int]]:
        """The prompts in tokens; the newest part where one is too long."""
        renderer = self.renderer(tokenizer)
        room = max_length - min(self.options.max_new_tokens, max_length // 2)
        texts = [renderer.prompt(r.target.prompt, tools=r.target.tools) for r in records]
        return [e.ids[-room:] for e in backend_of(tokenizer).encode_batch(texts, add_special_tokens=False)]

    def references(self, records: Sequence[Record]) -> list[list[str]]:
        """The best answers; none where an answer is bad."""
        return [[a] if (a := self.graded_text(r)) else [] for r in records]

    def text_scorer(self) -> None:  # type: ignore[override]
        """Preferred answers are examples, not what has to be written."""

    def graded_text(self, record: Record) -> str:
        """The answer that is rated highest; nothing where the only one is bad."""
        found: Comparison = record.target
        best = max(range(len(found.ratings)), key=found.ratings.__getitem__)
        return "" if found.ratings[best] <= 0 and len(found.ratings) == 1 else "\n".join(said(m, role=False) for m in found.answers[best])

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def remember(self, records: Sequence[Record], sums: NDArray[np.float64]) -> None:
        """Keep what the starting model makes of the records' answers, (records, columns)."""
        self.references_of |= {(r.file, r.line): line for r, line in zip(records, sums, strict=True)}

    def gold(self, records: Sequence[Record]) -> NDArray[np.float64]:
        """Ranks of the answers, -1 where there is none, then the starting model's log-probabilities, NaN where these are not known.

        (records, 2 * columns)
        """
        import numpy as np

        wide = self.columns_wide
        found = np.full((len(records), 2 * wide), np.nan)
        found[:, :wide] = -1
        for line, record in zip(found, records, strict=True):
            ratings = record.target.ratings
            ranks = [float(r > 0) for r in ratings] if self.objective == "kto" else np.unique(ratings, return_inverse=True)[1]
            line[: len(ratings)] = ranks
            kept = self.references_of.get((record.file, record.line))
            if kept is not None:
                line[wide : wide + len(kept)] = kept
        return found

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """Ranks and reference of each record, as `gold` has them; a reference not yet computed is 0."""
        import torch

        ranks, reference = torch.from_numpy(self.gold(records)).split(self.columns_wide, 1)
        return {"ranks": ranks.long(), "reference": reference.nan_to_num(0.0).float()}

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss function, weighed by rows; `parts` are what the log shows of them."""
        from luthier.models.batch import Loss
        from luthier.models.logprobs import segment_logprobs

        def loss(model: nn.Module, batch: Batch) -> Loss:
            places, _ = table(batch, self.columns_wide)
            first = places.max(1).values
            ranks, reference = batch.targets["ranks"][first], batch.targets["reference"][first]
            if self.began is not None:
                with self.began.again(model):
                    reference = laid(segment_logprobs(model, batch, layout).sums, places)
            found = segment_logprobs(model, batch, layout)
            judged = self.judge(Figures(ranks, laid(found.sums, places), laid(found.counts, places), reference))
            parts = {name: float(value.detach().sum()) for name, value in judged.parts.items()}
            return Loss(judged.loss.sum(), float(judged.weight.sum()), parts)

        return loss

    def answer(self, layout: Layout) -> Callable[[nn.Module, Batch], Tensor]:
        """For each segment its row's log-probabilities and graded tokens, (segments, 2 * columns)."""
        import torch

        from luthier.models.logprobs import segment_logprobs

        def answer(model: nn.Module, batch: Batch) -> Tensor:
            places, rows = table(batch, self.columns_wide)
            found = segment_logprobs(model, batch, layout)
            return torch.cat([laid(found.sums, places), laid(found.counts, places)], 1)[rows]

        return answer

    # ── outputs to scores ──────────────────────────────────────────────────────────────────────

    def _figures(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> Figures:
        import torch

        wide = self.columns_wide
        ranks, reference = torch.from_numpy(gold).split(wide, 1)
        sums, counts = torch.from_numpy(outputs).split(wide, 1)
        return Figures(ranks.long(), sums, counts, reference)

    def _unknown(self, figures: Figures) -> bool:
        """Whether the starting model that the loss measures against is not there any more."""
        return self.referenced and not self.new and bool(figures.reference[figures.ranks >= 0].isnan().any())

    def scores(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """What the judge says; a saved model that is measured again has no starting model beside it, and fewer scores."""
        figures = self._figures(gold, outputs)
        return self.judge.scores(figures, known=not self._unknown(figures))

    def elsewhere(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """Scores of rows for which the start was not asked, such as a probe's."""
        found = self.judge.scores(self._figures(gold, outputs), known=not self.referenced)
        return {"loss": found["loss_chosen"], **found}

    def row_loss(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """Each row's loss, for paired tests; of what no reference is known for, the nats of a token of its answers."""
        import numpy as np

        figures = self._figures(gold, outputs)
        if self._unknown(figures):
            return np.asarray((-figures.sums.sum(1) / figures.counts.sum(1).clamp_min(1)).numpy())
        return np.asarray(self.judge(figures._replace(reference=figures.reference.nan_to_num(0.0))).loss.numpy())

    def predictions(self, records: Sequence[Record], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
        """For each record its best answer, and for each of its answers the rating, the log-probability, and how far that has moved."""
        gold, wide, found = self.gold(records), self.columns_wide, []
        for record, known, line in zip(records, gold, outputs, strict=True):
            size = len(record.target.ratings)
            moved = [None if math.isnan(b) else float(a - b) for a, b in zip(line[:size], known[wide : wide + size], strict=True)]
            ahead = max(range(size), key=lambda i, m=moved, p=line: m[i] if m[i] is not None else p[i])  # type: ignore[misc]
            found.append(
                {
                    "target": self.graded_text(record)[:2000],
                    "ratings": list(record.target.ratings),
                    "logps": [float(v) for v in line[:size]],
                    "moved": moved,
                    "rank": 1 + sum(r > record.target.ratings[ahead] for r in record.target.ratings),
                }
            )
        return found


def elsewhere(records: Sequence[Record]) -> list[int]:
    """For each record the nearest one before it, in a ring, that asks something else; the one before where all ask the same."""
    count = len(records)
    found = [(place - 1) % count for place in range(count)]
    if len({r.text for r in records}) == 1:
        return found
    for step in range(2 * count):  # twice round, for the first may ask what the last asks
        place, last = step % count, (step - 1) % count
        if records[last].text == records[place].text:
            found[place] = found[last]
    return found


def tree(sequences: Sequence[tuple[Any, Any]], numbers: Sequence[int]) -> dict[str, Any]:
    """Sequences (ids, labels) as one example: what they share before anything is graded, then the rest of each, numbered.

    The place from which an answer's first token is predicted is a branch's own: each predicts another one there.
    """
    most = min(int((labels != UNGRADED).argmax()) for _, labels in sequences)
    return joined([{"input_ids": ids, "labels": labels} for ids, labels in sequences], numbers, most=most)
