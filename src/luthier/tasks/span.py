"""Extractive question answering: where in a passage the answer to a question starts and ends, or that it has none.

Enters: rows with a passage, a question and its answers. Leaves: windows of tokens with the answer's first and last
token, the loss of a batch, answers with their characters, and scores as SQuAD has them. A window that does not hold
the answer is graded on its first token, which means "not here" (Devlin et al. 2019, sec. 4.3).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record, need_columns
from luthier.data.rows import Row, Rows
from luthier.data.split import Part, content_key
from luthier.data.tokens import Encoded, assemble_tokens
from luthier.errors import DataError
from luthier.tasks.language import text_fault
from luthier.tasks.squad import Answers, answers_of, grade

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.span import SpanOptions

NATS, WINDOWS, EXACT, F1, NONE, SPANS = range(6)
"""Columns of a record's figures; from SPANS on three a candidate: log-probability, first and last character."""
FEWEST_GROUPS = 20
"""With fewer groups (titles) than this, rows are shared out by passage: parts could not meet their shares."""


class Span:
    """The task; `unanswered` says whether training has questions without an answer."""

    name = kind = "span"
    writes = answers = converses = alters = masked = False
    baselines = ("overlap",)
    labels: tuple[str, ...] = ()
    metric = "f1"
    fewest_updates, fewest_epochs, most_epochs = 1000, 2, 10
    rate, rate_width = 2e-4, 384

    def __init__(self, options: SpanOptions, data: Data, *, unanswered: bool = False) -> None:
        self.options, self.data, self.unanswered = options, data, unanswered

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    @classmethod
    def plan(cls, options: SpanOptions, data: Data, rows: dict[Part, Rows]) -> Span:
        """The task, after checking that the columns are there. Raises DataError where one is missing or not named."""
        task = cls(options, data)
        remedy = "SQuAD files have text: context, text_pair: question, label: answers"
        if data.text_pair is None:
            raise DataError("no column for the question", where="data.text_pair", remedy=remedy)
        if isinstance(data.label, list):
            raise DataError("several columns for the answer", where="data.label", remedy=f"name one; {remedy}")
        for part in rows.values():
            need_columns(part, task.columns())
        return task

    def columns(self) -> dict[str, str]:
        """The columns that records are made of, each with the recipe path that names it."""
        return {self.data.text: "data.text", str(self.data.text_pair): "data.text_pair", str(self.data.label): "data.label"}

    def record(self, row: Row) -> Record | str:
        """The row's passage, question and answers, or why it cannot be used."""
        texts = self.texts(row.values)
        if isinstance(texts, str):
            return texts
        options = self.options
        found = answers_of(row.values, texts[0], label=str(self.data.label), start=options.start, group=options.group)
        return found if isinstance(found, str) else Record(texts[0], texts[1], found, row.file, row.line)

    def texts(self, values: Mapping[str, Any]) -> tuple[str, str | None] | str:
        """The passage and the question, or what is wrong with them; the same in training and in prediction."""
        for what, column in (("passage", self.data.text), ("question", str(self.data.text_pair))):
            fault = text_fault(values.get(column))
            if fault:
                return fault.replace("text", what, 1)
        return str(values[self.data.text]), str(values[str(self.data.text_pair)])

    def stratum(self, record: Record) -> str:
        """Nothing to balance the split by."""
        return "all"

    def groups(self, records: Sequence[Record]) -> list[str]:
        """What stays on one side of a split: the questions of one title, or of one passage where there are few titles."""
        passages = [content_key(r.text) for r in records]
        titles: dict[str, str] = {}
        for passage, record in zip(passages, records, strict=True):
            titles.setdefault(passage, record.target.group or passage)
        return [titles[p] for p in passages] if len(set(titles.values())) >= FEWEST_GROUPS else passages

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """All text that a new tokenizer should know."""
        return list(dict.fromkeys(t for r in records for t in (r.text, r.pair) if t))

    # ── answer statistics ──────────────────────────────────────────────────────────────────────

    def fit(self, train: Sequence[Record]) -> None:
        """See whether there are questions without an answer. Raises DataError where there is nothing else."""
        self.unanswered = any(not r.target.texts for r in train)
        if not any(r.target.texts for r in train):
            raise DataError("no training row has an answer", where="data.label", remedy=f"is {self.data.label!r} the column of answers?")

    def label_counts(self, records: Sequence[Record]) -> dict[str, int]:
        """Questions with an answer, with one that stood elsewhere than the file says, and without one; those there are."""
        counts = Counter("no answer" if not r.target.texts else "answer, moved" if r.target.moved else "answer" for r in records)
        return {name: counts[name] for name in ("answer", "answer, moved", "no answer") if counts[name]}

    @property
    def outputs(self) -> int:
        """Figures of each record."""
        return SPANS + 3 * self.options.candidates

    def head(self, config: Any) -> Head:
        """Two values a token: start and end."""
        from luthier.models.heads import Head

        return Head("span")

    def start(self, model: nn.Module) -> None:
        """A fresh head starts at random."""

    def inferred(self) -> list[tuple[str, Any, str]]:
        """(recipe path, value, reason) of what the rows decided."""
        if self.options.null_threshold != "auto":
            return []
        why = "training has questions without an answer" if self.unanswered else "every training question has an answer"
        return [("task.null_threshold", self._threshold if self.unanswered else "never", why)]

    @property
    def _threshold(self) -> float:
        """How much likelier no answer must be, in nats; infinite where it is never said."""
        wanted = self.options.null_threshold
        return wanted if wanted != "auto" else 0.0 if self.unanswered else math.inf

    def state(self) -> dict[str, Any]:
        """What a saved model needs to answer again."""
        return {"unanswered": self.unanswered}

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Each record's windows: its question before a part of its passage, at most `max_length` tokens.

        Rejected are questions that leave no room for a passage, texts without tokens, and for training also
        answers that no window holds whole.
        """
        import numpy as np

        from luthier.tasks.windows import LEAST, frame_of, pieces

        backend = tokenizer.backend_tokenizer
        known = pieces([t for r in records for t in (str(r.pair), r.text)], backend)
        examples: list[dict[str, Any]] = []
        owner: list[int] = []
        rejected: dict[int, str] = {}
        frame = None
        for index, record in enumerate(records):
            question, passage = known[str(record.pair)], known[record.text]
            if not len(question.ids) or not (passage.offsets[:, 0] < passage.offsets[:, 1]).any():
                rejected[index] = "the question or the passage has no tokens"
                continue
            frame = frame or frame_of(backend, str(record.pair), record.text)
            if frame.room(question, max_length) < min(LEAST, len(passage.ids)):
                rejected[index] = f"question too long: {len(question.ids)} of the {max_length} tokens that fit, beside its passage"
                continue
            edges = _edges(record.target, passage.offsets)
            found = []
            for window in frame.windows(question, passage, max_length=max_length, stride=self.options.stride):
                null = _null(window.ids, tokenizer.cls_token_id)
                begins, marks, held = window.begins.copy(), np.zeros_like(window.ids), len(window.ids) - window.place - len(frame.after)
                begins[null] = -1
                here = edges is not None and window.first <= edges[0] and edges[1] < window.first + held
                first, last = (e - window.first + window.place for e in edges) if here and edges else (null, null)
                marks[first] |= 1
                marks[last] |= 2
                example = {"input_ids": window.ids, "token_type_ids": window.types, "begins": begins, "ends": window.ends, "edges": marks}
                found.append((here, example))
            if train and record.target.texts and not any(here for here, _ in found):
                rejected[index] = "answer too long: no window holds it whole" if edges else "the answer has no tokens"
                continue
            examples += [example for _, example in found]
            owner += [index] * len(found)
        return Encoded(assemble_tokens(examples, owner=owner), rejected)

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """Starts and ends lie in the examples, token by token."""
        return {}

    def answer(self, layout: Layout) -> Callable[[nn.Module, Batch], Tensor]:
        """What evaluation asks of each window: its nats, the score of no answer, and the best spans."""
        from luthier.models.span import span_figures

        longest, candidates = self.options.max_answer, self.options.candidates
        return lambda model, batch: span_figures(model, batch, layout, longest=longest, candidates=candidates)

    def combine(self, records: Sequence[Record]) -> Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]:
        """How windows become records: nats add up, the best spans of all windows are kept, and the answer is graded.

        Spans of different windows are compared by their logits, and their probabilities are shares of all windows
        together: with shares of each window alone, the F1 of a model asked in shorter windows than it had learned from
        was 0.31 instead of 0.38. No answer is as likely as in the window that doubts it most: one that holds an answer is enough.
        """
        import numpy as np

        def combined(found: NDArray[np.float64], owner: NDArray[np.int64]) -> NDArray[np.float64]:
            lines = np.zeros((len(records), self.outputs))
            order = np.argsort(owner, kind="stable")
            bounds = np.searchsorted(owner[order], np.arange(len(records) + 1))
            for index in range(len(records)):
                windows = found[order[bounds[index] : bounds[index + 1]]]
                spans, whole = self._best(windows[:, 4:].reshape(-1, 3)), np.logaddexp.reduce(windows[:, 2])
                spans[:, 0] -= whole
                lines[index, [NATS, WINDOWS]] = windows[:, :2].sum(0)
                lines[index, NONE] = windows[:, 3].min() - whole
                lines[index, SPANS:] = spans.ravel()
            return self.graded(records, lines)

        return combined

    def _best(self, spans: NDArray[np.float64]) -> NDArray[np.float64]:
        """The likeliest different spans, (candidates, 3)."""
        import numpy as np

        kept = np.tile([-np.inf, -1.0, -1.0], (self.options.candidates, 1))
        seen: set[tuple[float, float]] = set()
        for score, start, end in spans[np.argsort(-spans[:, 0], kind="stable")].tolist():
            if start >= 0 and len(seen) < len(kept) and (start, end) not in seen:
                kept[len(seen)] = score, start, end
                seen.add((start, end))
        return kept

    def spanned(self, records: Sequence[Record], spans: Sequence[tuple[int, int]]) -> NDArray[np.float64]:
        """Figures of a method that names one span a record, by character, and gives no probabilities."""
        import numpy as np

        lines = np.zeros((len(records), self.outputs))
        lines[:, [NATS, WINDOWS]], lines[:, NONE] = np.nan, -np.inf
        lines[:, SPANS:] = np.tile([-np.inf, -1.0, -1.0], self.options.candidates)
        lines[:, SPANS : SPANS + 3] = [(0.0, *span) for span in spans]
        return self.graded(records, lines)

    def graded(self, records: Sequence[Record], lines: NDArray[np.float64]) -> NDArray[np.float64]:
        """The lines with exact match and F1 of the answer that each gives; zero for records without a target."""
        for record, line in zip(records, lines, strict=True):
            if record.target is not None:
                line[[EXACT, F1]] = grade(self._given(record, line), record.target.texts)
        return lines

    def _given(self, record: Record, line: NDArray[np.float64]) -> str:
        """The answer of a line; "" for none."""
        score, start, end = line[SPANS : SPANS + 3]
        return "" if start < 0 or line[NONE] - score > self._threshold else record.text[int(start) : int(end)]

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss function `(model, batch) -> Loss`, weighed by windows."""
        from luthier.models.batch import Loss
        from luthier.models.span import span_loss

        def loss(model: nn.Module, batch: Batch) -> Loss:
            return Loss(span_loss(model, batch, layout).sum(), float(batch.segments.count))

        return loss

    # ── outputs to predictions and scores ──────────────────────────────────────────────────────

    def decode(self, outputs: NDArray[np.float64], records: Sequence[Record] = ()) -> list[dict[str, Any]]:
        """Answers for people: text, characters of the passage, probability, and the best candidates; None for no answer."""
        return [self._decoded(record, line) for record, line in zip(records, outputs, strict=True)]

    def _decoded(self, record: Record, line: NDArray[np.float64]) -> dict[str, Any]:
        best = [
            {"answer": record.text[int(s) : int(e)], "start": int(s), "end": int(e), "score": math.exp(p)}
            for p, s, e in line[SPANS:].reshape(-1, 3)
            if s >= 0
        ]
        none: dict[str, Any] = {"answer": "", "start": None, "end": None, "score": math.exp(line[NONE])}
        top = best[0] if best else none
        if self._threshold < math.inf:
            best = sorted([*best, none], key=lambda b: -b["score"])[: self.options.candidates]
        return {**(top if self._given(record, line) else none), "best": best}

    def text_score_names(self) -> tuple[str, ...]:
        """Nothing is written."""
        return ()

    def text_scorer(self) -> None:
        """Nothing is written."""

    def predictions(self, records: Sequence[Record], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
        """For each record its right answers, and what the model said."""
        return [{"target": list(r.target.texts), **said} for r, said in zip(records, self.decode(outputs, records), strict=True)]

    def gold(self, records: Sequence[Record]) -> NDArray[Any]:
        """1 where there is an answer, (n,)."""
        import numpy as np

        return np.array([float(bool(r.target.texts)) for r in records])

    def scores(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """Exact match and F1 as SQuAD has them; with questions without an answer, each kind apart too (0 where there are none)."""
        import numpy as np

        found = {
            "exact_match": float(outputs[:, EXACT].mean()),
            "f1": float(outputs[:, F1].mean()),
        }
        if not np.isnan(outputs[:, WINDOWS]).any():  # else of a method without probabilities
            found["loss"] = float(outputs[:, NATS].sum() / max(outputs[:, WINDOWS].sum(), 1.0))
        if self.unanswered:
            for name, column, rows in (("f1_answered", F1, gold > 0), ("no_answer_accuracy", EXACT, gold <= 0)):
                found[name] = float(outputs[rows, column].mean()) if rows.any() else 0.0
        return found

    def row_loss(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """How wrong each row is, 1 - F1, for paired tests."""
        return 1.0 - outputs[:, F1]


def _edges(target: Answers | None, offsets: NDArray[np.int64]) -> tuple[int, int] | None:
    """The first and last token of the passage that touch the answer; None where there is no answer."""
    import numpy as np

    if target is None or not target.texts:
        return None
    touching = np.flatnonzero((offsets[:, 0] < target.end) & (offsets[:, 1] > target.start) & (offsets[:, 0] < offsets[:, 1]))
    return (int(touching[0]), int(touching[-1])) if len(touching) else None


def _null(ids: NDArray[np.int32], cls: int | None) -> int:
    """The place that means no answer: the classification token, else the first."""
    import numpy as np

    return int(np.argmax(ids == cls)) if cls is not None else 0
