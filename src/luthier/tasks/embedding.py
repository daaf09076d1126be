"""Embedding: a vector for a text, near those of the texts that belong to it.

Enters: rows with two texts (a text and its positive, perhaps negatives; or two texts and a score), or texts with a
class. Leaves, along the data path: records, examples that hold all texts of a record, the loss of a batch, vectors,
and how well texts are found among the others of their part.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record, need_columns
from luthier.data.rows import Row, Rows, cell_text
from luthier.data.split import Part, content_key
from luthier.data.tokens import Encoded, Tokens, assemble_tokens, tokenize
from luthier.errors import DataError, ModelError
from luthier.recipe.tasks.embedding import RANKING
from luthier.tasks import retrieval
from luthier.tasks.language import text_fault
from luthier.tasks.paired import cells, highest, joined, kind_of, named, number, numbered, paired

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data, Training
    from luthier.recipe.tasks.embedding import EmbeddingOptions

NEGATIVE = re.compile(r"negative(_\d+)?")
FEWEST_GROUPS = 20
"""Different positives from which on those of the test part are kept out of training."""


class Embedding:
    """The task, with the kind and the columns that the training rows gave it."""

    name = "embedding"
    writes = answers = converses = alters = masked = False
    labels: tuple[str, ...] = ()
    fewest_updates, fewest_epochs, most_epochs = 100, 1, 10
    rate, rate_width = 1e-4, 384

    def __init__(
        self, options: EmbeddingOptions, data: Data, *, kind: str, negatives: Sequence[str] = (), highest: float = 1.0, pooling: str = ""
    ) -> None:
        self.options, self.data, self.kind, self.negatives, self.highest = options, data, kind, tuple(negatives), highest
        self.pooling = pooling if options.pooling == "auto" else options.pooling

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    @classmethod
    def plan(cls, options: EmbeddingOptions, data: Data, rows: dict[Part, Rows]) -> Embedding:
        """Find the kind in the columns. Raises DataError where they are missing or hold something else."""
        train = rows["train"]
        if isinstance(data.label, list):
            raise DataError("several columns", where="data.label", remedy="name one: the class, or the score")
        negatives = options.negatives
        if negatives is None:
            negatives = [c for c in train.columns if NEGATIVE.fullmatch(c)] if options.kind in ("auto", "triplets") else []
        task = cls(options, data, kind=options.kind if options.kind != "auto" else kind_of(data, train, negatives), negatives=negatives)
        if task.kind != "classes" and data.text_pair is None:
            raise DataError(
                f"{task.kind} need a second text", where="data.text_pair", remedy=f"name its column; there are: {named(train.columns)}"
            )
        if task.kind == "triplets" and not negatives:
            raise DataError("triplets need negatives", where="task.negatives", remedy="name their columns, or set task.kind: pairs")
        if options.loss != "auto" and (options.loss == "in_batch") != (task.kind in RANKING):
            known = "in_batch" if task.kind in RANKING else "cosent or cosine"
            raise DataError(f"{options.loss} is not for {task.kind}", where="task.loss", remedy=f"set it to auto or {known}")
        for part in rows.values():
            need_columns(part, task.columns())
        if task.kind == "scored":
            task.highest = highest([row.values.get(data.label) for row in train.rows])
        return task

    def columns(self) -> dict[str, str]:
        """The columns that records are made of, each with the recipe path that names it."""
        found = {self.data.text: "data.text"}
        if self.kind != "classes":
            found[str(self.data.text_pair)] = "data.text_pair"
        if self.kind in ("classes", "scored"):
            found[str(self.data.label)] = "data.label"
        return found | dict.fromkeys(self.negatives, "task.negatives")

    def record(self, row: Row) -> Record | str:
        """The row's texts and what is known of them, or why it cannot be used."""
        found = self.texts(row.values)
        if isinstance(found, str):
            return found
        label = row.values.get(str(self.data.label))
        if self.kind == "classes":
            return Record(found[0], None, cell_text(label), row.file, row.line) if cell_text(label) else "no class"
        pair = row.values.get(str(self.data.text_pair))
        if fault := text_fault(pair):
            return f"second {fault}"
        target: Any = None
        if self.kind == "scored":
            target = number(label)
            if target is None or not 0 <= target <= self.highest:
                return f"not a score of 0 to {self.highest:g}: {label!r}"
            target /= self.highest
        if self.kind == "triplets":
            others = [c for name in self.negatives for c in cells(row.values.get(name))]
            if fault := next((f for c in others if (f := text_fault(c))), None):
                return f"negative {fault}"
            target = tuple(others)
        return Record(found[0], str(pair), target, row.file, row.line)

    def texts(self, values: Mapping[str, Any]) -> tuple[str, str | None] | str:
        """The text that is to have a vector, or what is wrong with it."""
        value = values.get(self.data.text)
        return text_fault(value) or (str(value), None)

    def stratum(self, record: Record) -> str:
        """Rows of one stratum are shared out in proportion."""
        return str(record.target) if self.kind == "classes" else "all"

    def groups(self, records: Sequence[Record]) -> list[str]:
        """What stays on one side of a split: the rows of one positive, where there are many, so that it is found unseen."""
        if self.kind in ("pairs", "triplets"):
            positives = [content_key(r.pair) for r in records]
            if len(set(positives)) >= FEWEST_GROUPS:
                return positives
        return [r.key for r in records]

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """All text that a new tokenizer should know."""
        return list(dict.fromkeys(t for r in records for t in self._texts(r)))

    def _texts(self, record: Record) -> list[str]:
        """A record's texts by part: the text, its positive (or the other text), negatives."""
        negatives = record.target if self.kind == "triplets" and record.target else ()
        return [record.text, *([record.pair] if record.pair is not None else []), *negatives]

    # ── what the rows say ──────────────────────────────────────────────────────────────────────

    def fit(self, train: Sequence[Record]) -> None:
        """Raise DataError where the training records leave nothing to tell apart."""
        if self.kind == "classes":
            counts = Counter(r.target for r in train)
            if len(counts) < 2 or max(counts.values()) < 2:
                raise DataError("training needs two classes, and two texts of one", where="data.label", remedy="is this the class column?")
        elif self.kind == "scored" and len({r.target for r in train}) < 2:
            raise DataError("all training scores are the same", where="data.label", remedy="is this the column of scores?")
        elif self.kind != "scored" and len({content_key(r.pair) for r in train}) < 2:
            raise DataError("all training rows have the same positive", where="data.text_pair", remedy="is this the column of positives?")

    def label_counts(self, records: Sequence[Record]) -> dict[str, int]:
        """Records of each class."""
        return dict(Counter(r.target for r in records)) if self.kind == "classes" else {}

    @property
    def outputs(self) -> int:
        """Figures of each record."""
        return 2 + len(retrieval.NAMES) if self.kind in RANKING else 2

    @property
    def baselines(self) -> tuple[str, ...]:
        """BM25, where texts are found and its package is there."""
        from importlib.util import find_spec

        return ("bm25",) if self.kind in RANKING and find_spec("bm25s") is not None else ()

    @property
    def metric(self) -> str:
        """The score by which checkpoints are compared where the recipe names none."""
        return "ndcg@10" if self.kind in RANKING else "spearman"

    def head(self, config: Any) -> Head:
        """No head: pooled states are the vector. Raises ModelError for an encoder-decoder."""
        from luthier.models.heads import Head
        from luthier.models.vectors import pooling_of

        if config.is_encoder_decoder:
            raise ModelError("an encoder-decoder has two kinds of states", where="model.name", remedy="choose an encoder, such as minilm")
        self.pooling = self.pooling or pooling_of(config)
        return Head("vector")

    def start(self, model: nn.Module) -> None:
        """There is no head to start."""

    def inferred(self) -> list[tuple[str, Any, str]]:
        """(recipe path, value, reason) of what the rows decided."""
        found: list[tuple[str, Any, str]] = []
        if self.options.kind == "auto":
            found.append(("task.kind", self.kind, "the columns"))
        if self.options.negatives is None and self.negatives:
            found.append(("task.negatives", list(self.negatives), "their names"))
        if self.options.loss == "auto":
            found.append(("task.loss", self._loss_name, f"the kind, {self.kind}"))
        return found

    @property
    def _loss_name(self) -> str:
        return self.options.loss if self.options.loss != "auto" else "in_batch" if self.kind in RANKING else "cosent"

    def cautions(self, tokens: Tokens, options: Training) -> list[str]:
        """What is to be known before training: the pooling, the range of scores, and updates that do not fit in one pass."""
        found = [f"vectors are the {self.pooling} hidden state" if self.pooling != "mean" else "vectors are the mean of the hidden states"]
        if self.kind == "scored" and self.highest != 1:
            found.append(f"scores run from 0 to {self.highest:g}: they are divided by {self.highest:g}")
        return found if self._loss_name == "cosine" else [*found, *passes_of(tokens, options)]

    def state(self) -> dict[str, Any]:
        """What a saved model needs to answer again."""
        return {"kind": self.kind, "negatives": list(self.negatives), "highest": self.highest, "pooling": self.pooling}

    def files(self, config: Any, max_length: int) -> dict[str, Any]:
        """What lies beside the model, by name, so that sentence-transformers reads it too."""
        from luthier.models.vectors import modules

        return modules(config, pooling=self.pooling, normalize=self.options.normalize, max_length=max_length)

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """For training an example with all texts of a record, so that they come in one batch; else an example for each text.

        The layer `mark` says which texts are the same, or of one class. For classes each text is paired with several others.
        """
        import numpy as np

        texts = [self._texts(r) for r in records]
        flat = [t for several in texts for t in several]
        found = tokenize(flat, None, tokenizer.backend_tokenizer, max_length=max_length, cache=cache)
        owner = np.repeat(np.arange(len(texts)), [len(several) for several in texts])
        if not train:
            return Encoded(Tokens(found.table, found.truncated, owner))
        plain: Any = found.examples()
        marks = numbered([r.target for r in records] if self.kind == "classes" else [content_key(t) for t in flat])
        if self.kind == "classes":
            members: list[Any] = paired(marks, self.options.partners)
        else:
            members = np.split(np.arange(len(flat)), np.flatnonzero(np.diff(owner)) + 1)
        examples = [joined([plain[i] for i in several], [marks[i] for i in several]) for several in members]
        cut = sum(len(example["input_ids"]) >= max_length for example in plain)
        return Encoded(assemble_tokens(examples, truncated=min(cut, found.truncated, len(examples))))

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """The scores of scored pairs; what else is learned lies in the examples."""
        import torch

        return {"scores": torch.tensor([r.target for r in records])} if self.kind == "scored" else {}

    def answer(self, layout: Layout) -> Callable[[nn.Module, Batch], Tensor]:
        """What evaluation asks of each text: its vector, (segments, width)."""
        from torch.nn.functional import normalize

        from luthier.models.vectors import vectors

        if not self.options.normalize:
            return lambda model, batch: vectors(model, batch, layout, pooling=self.pooling)
        return lambda model, batch: normalize(vectors(model, batch, layout, pooling=self.pooling), dim=1)

    def combine(self, records: Sequence[Record]) -> Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.float64]]:
        """How the vectors of texts become figures of records; records of which nothing is known keep their vector."""
        if all(r.pair is None and r.target is None for r in records):
            return lambda found, owner: found

        temperature, symmetric = self.options.temperature, self.options.symmetric

        def combined(found: NDArray[np.float64], owner: NDArray[np.int64]) -> NDArray[np.float64]:
            if self.kind == "scored":
                return retrieval.near(records, found, owner, ordered=self._loss_name == "cosent", temperature=temperature)
            texts = [self._texts(r) for r in records]
            return retrieval.ranked(self.kind, records, texts, found, owner, temperature=temperature, symmetric=symmetric)

        return combined

    def baseline(self, name: str, train: Sequence[Record], records: Sequence[Record]) -> NDArray[np.float64]:
        """The figures of BM25, which is not trained and gives no probabilities: its loss is no number."""
        return retrieval.by_words(self.kind, records)

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss function `(model, batch) -> Loss`, weighed by examples; `candidates` is what each was compared with."""
        from luthier.models.contrast import ranking_loss, score_loss
        from luthier.models.vectors import vectors

        options, pooling, ordered = self.options, self.pooling, self._loss_name == "cosent"

        def ranking(model: nn.Module, batch: Batch) -> Loss:
            found = vectors(model, batch, layout, pooling=pooling)
            return ranking_loss(found, batch, temperature=options.temperature, symmetric=options.symmetric)

        def scored(model: nn.Module, batch: Batch) -> Loss:
            return score_loss(vectors(model, batch, layout, pooling=pooling), batch, temperature=options.temperature if ordered else None)

        return ranking if self.kind in RANKING else scored

    # ── outputs to predictions and scores ──────────────────────────────────────────────────────

    def decode(self, outputs: NDArray[np.float64], records: Sequence[Record] = ()) -> list[dict[str, Any]]:
        """Vectors for people's programs."""
        return [{"vector": [float(f"{x:.8g}") for x in line]} for line in outputs]

    def text_score_names(self) -> tuple[str, ...]:
        """Nothing is written."""
        return ()

    def text_scorer(self) -> None:
        """Nothing is written."""

    def predictions(self, records: Sequence[Record], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
        """For each record what was to be found and at which rank the first of it stood; or its score and its cosine."""
        if self.kind == "scored":
            return [{"target": r.target, "value": float(line[1])} for r, line in zip(records, outputs, strict=True)]
        ranks = [round(1 / line[retrieval.RANK]) if line[retrieval.RANK] else None for line in outputs]
        return [{"target": r.target if self.kind == "classes" else r.pair, "rank": rank} for r, rank in zip(records, ranks, strict=True)]

    def gold(self, records: Sequence[Record]) -> NDArray[Any]:
        """Scores of pairs, (n,); ones where a text is to be found, since ranks say it all."""
        import numpy as np

        return np.array([r.target if self.kind == "scored" else 1.0 for r in records], dtype=np.float64)

    def scores(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """Recall, mean reciprocal rank and nDCG; of scored pairs, correlations of cosines with scores."""
        from luthier.tasks.metrics import regression

        if self.kind == "scored":
            found = regression(gold, outputs[:, 1:])
            return {"spearman": found["spearman"], "pearson": found["pearson"], "loss": float(outputs[:, 0].mean())}
        found = retrieval.means(outputs, ("loss", *retrieval.NAMES))
        return found if not math.isnan(found["loss"]) else {n: v for n, v in found.items() if n != "loss"}

    def row_loss(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """How wrong each row is, for paired tests: 1 - inverse rank, or the distance of cosine and score."""
        import numpy as np

        return np.abs(outputs[:, 1] - gold) if self.kind == "scored" else 1.0 - outputs[:, retrieval.RANK]


def passes_of(tokens: Tokens, options: Training) -> list[str]:
    """A line where an update takes several passes, since texts are compared within one pass; none where it takes one."""
    size, lengths = options.batch_size * options.gradient_accumulation, tokens.lengths()
    typical = size * sum(lengths) / len(lengths)
    if typical <= options.max_tokens:
        return []
    return [
        f"an update of {size} examples takes about {math.ceil(typical / options.max_tokens)} passes, and a text is compared with "
        "those of its own pass only: raise training.max_tokens to compare it with all"
    ]
