"""Tagging: entities in a text, or a class for each of its words, such as its part of speech.

Enters: rows with words and their tags, or with a text and spans of characters. Leaves: windows of tokens in which the
first token of each word is graded, the loss of a batch, tags or spans of characters, and scores. Entities are scored
as wholes: type and both borders must be right (Tjong Kim Sang and De Meulder 2003).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record, Words, excluded, need_columns
from luthier.data.rows import Row, Rows
from luthier.data.split import Part
from luthier.data.tokens import UNGRADED, Encoded, assemble_tokens
from luthier.errors import DataError
from luthier.tasks import tags as tagged
from luthier.tasks.marked import Columns, Marked, columns_of, marked
from luthier.tasks.tagfigures import Figures, Kind
from luthier.tasks.tags import Entity, Scheme

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.tagging import TaggingOptions

    Array = NDArray[np.float64]

MAX_LABELS = 1000


class Tagging:
    """The task, with the tags that the rows gave it."""

    name = "tagging"
    extends = True
    writes = answers = converses = alters = masked = False
    baselines = ("majority", "lexicon")
    fewest_updates, fewest_epochs, most_epochs = 600, 3, 20
    rate, rate_width = 2e-4, 384

    def __init__(
        self,
        options: TaggingOptions,
        data: Data,
        *,
        kind: Kind,
        labels: Sequence[str],
        columns: Mapping[str, Any],
        reading: Scheme = "bio",
    ) -> None:
        self.options, self.data, self.kind, self.labels = options, data, kind, tuple(labels)
        self.place, self.reading = Columns(**columns), reading
        self._index = {label: i for i, label in enumerate(labels)}
        self.figures = Figures(kind, labels, scheme=options.scheme if options.constrained else None)
        self._seen: Counter[str] = Counter()
        self._slots = 1
        self.prior: list[float] | None = None

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    @classmethod
    def plan(cls, options: TaggingOptions, data: Data, rows: dict[Part, Rows], *, earlier: Tagging | None = None) -> Tagging:
        """Find the columns, the kind and the tags in the rows; the tags of an `earlier` task come first.

        Tags that training lacks are known too, so that their words count as wrong. Raises DataError for missing
        columns, or rows without tags.
        """
        bad = rows["train"].quarantined
        if bad and not rows["train"].rows:
            raise DataError(f"no usable rows for train, the first because: {bad[0].reason}", where=f"{bad[0].file}:{bad[0].line}")
        for name in ("text_pair", "label_separator"):
            if getattr(data, name) is not None:
                raise DataError("is not for tagging: a row has one text, and a list of tags", where=f"data.{name}", remedy="take it out")
        place = columns_of(data, rows["train"].rows)
        for held in rows.values():
            need_columns(held, {place.source: "data.text", place.target: "data.label"})
        kept = {part: [r for r in held.rows if not excluded(r, data)] for part, held in rows.items()}
        found = {part: [m for r in held if isinstance(m := marked(r.values, place), Marked)] for part, held in kept.items()}
        if options.kind == "auto" and earlier is not None:
            kind = earlier.kind
        else:
            kind = _kind(options, place, [t for part in found.values() for m in part for t in m.tags or ()])
        if kind == "entities":
            found = {part: [m for m in held if all(map(tagged.TAG.fullmatch, m.tags or ()))] for part, held in found.items()}
        reading = tagged.detect(m.tags or () for m in found["train"]) if kind == "entities" else "bio"
        names = Counter(n for part in found.values() for m in part for n in m.names(kind) if n not in options.ignore)
        if not names:
            raise DataError("training has no tags", where="data.label", remedy=f"is {place.target!r} the column of tags? see task.ignore")
        if len(names) > MAX_LABELS:
            raise DataError(f"{len(names)} different tags", where="data.label", remedy="is this the column of tags?")
        known = earlier.figures.names if earlier is not None and earlier.kind == kind else ()
        ordered = [*known, *sorted(set(names) - set(known))]
        labels = tagged.label_space(ordered, options.scheme) if kind == "entities" else ordered
        task = cls(options, data, kind=kind, labels=labels, columns=place._asdict(), reading=reading)
        taught = {n for m in found["train"] for n in m.names(kind)} | set(known)
        task._seen["types or tags stand in validation or test alone, and cannot be learned"] = len(names.keys() - taught)
        return task

    def columns(self) -> dict[str, str]:
        """The columns that records are made of, each with the recipe path that names it."""
        return {self.place.source: "data.text", self.place.target: "data.label"}

    def record(self, row: Row) -> Record | str:
        """The row's words and their tags as numbers, or why it cannot be used."""
        found = marked(row.values, self.place)
        if isinstance(found, str):
            return found
        target = self._classes(found) if self.kind == "words" else self._entities(found)
        return target if isinstance(target, str) else Record(found.text, None, target, row.file, row.line, found.words)

    def _classes(self, found: Marked) -> tuple[int, ...] | str:
        """The number of each word's tag, UNGRADED for those that have none or one to be ignored."""
        assert found.tags is not None, "tags, not spans"
        wanted = ["" if t in self.options.ignore else t for t in found.tags]
        unknown = next((t for t in wanted if t and t not in self._index), None)
        if unknown is not None:
            return f"unknown tag: {unknown!r}"
        self._seen["words without a tag, not graded"] += wanted.count("")
        if not any(wanted):
            return "no word has a tag"
        return tuple(self._index[t] if t else UNGRADED for t in wanted)

    def _entities(self, found: Marked) -> tuple[int, ...] | str:
        """The number of each word's tag in the scheme of the head."""
        if found.tags is None:
            entities = list(found.entities)
            self._seen["spans did not stand at the borders of words, and were moved there"] += found.moved
        else:
            bad = next((t for t in found.tags if not tagged.TAG.fullmatch(t)), None)
            if bad is not None:
                return f"not a tag of an entity: {bad!r}" if bad else "a word without a tag"
            entities = tagged.entities(found.tags)
            odd = f"tags stand where {self.reading} does not allow them; each begins an entity, or ends one"
            self._seen[odd] += tagged.faults(found.tags, self.reading)
        kept = [e for e in entities if e.label not in self.options.ignore]
        self._seen["entities of types in task.ignore are read as none"] += len(entities) - len(kept)
        unknown = next((e.label for e in kept if e.label not in self.figures.names), None)
        if unknown is not None:
            return f"unknown type: {unknown!r}"
        tags = tagged.written(kept, len(found.words.forms), self.options.scheme)
        return tuple(self._index[t] for t in tags)

    def texts(self, values: Mapping[str, Any]) -> Record | str:
        """The text, or the words, that are to be tagged, or what is wrong with them; the same in training and in prediction."""
        found = marked(values, self.place, graded=False)
        return found if isinstance(found, str) else Record(found.text, None, None, "", 0, found.words)

    def stratum(self, record: Record) -> str:
        """Rows with entities, and rows without, are shared out in proportion."""
        return "some" if self.kind == "entities" and any(record.target) else "all"

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """All text that a new tokenizer should know."""
        return [r.text for r in records]

    # ── tag statistics ─────────────────────────────────────────────────────────────────────────

    def fit(self, train: Sequence[Record]) -> None:
        """Learn where a fresh head starts: at the shares of the tags, most of which are rare (Lin et al. 2017, sec. 3.3).

        Raises DataError where the usable training rows show nothing to learn.
        """
        if sum(n > 0 for n in self.label_counts(train).values()) < (1 if self.kind == "entities" else 2):
            raise DataError(
                "the usable training rows have no entity" if self.kind == "entities" else "the usable training rows have one tag only",
                where="data.label",
                remedy="give rows with more of them",
            )
        counts = Counter(n for r in train for n in r.target if n >= 0)
        self.prior = [math.log((counts[i] + 1) / (counts.total() + len(self.labels))) for i in range(len(self.labels))]

    def label_counts(self, records: Sequence[Record]) -> dict[str, int]:
        """Entities of each type, or words with each tag."""
        counts: Counter[str] = Counter()
        for record in records:
            names = self.figures.tags(record.target)
            counts.update(e.label for e in tagged.entities(names)) if self.kind == "entities" else counts.update(n for n in names if n)
        return {name: counts[name] for name in self.figures.names}

    @property
    def outputs(self) -> int:
        """Figures of each record, beside those of its words."""
        return self.figures.counts

    def head(self, config: Any) -> Head:
        """A value a tag for each token."""
        from luthier.models.heads import Head

        return Head("words", len(self.labels), self.labels)

    def start(self, model: nn.Module, *, rows: Sequence[int] | None = None) -> None:
        """Let a fresh head, or fresh `rows` of one, start where the tags say, so that training need not walk there."""
        import torch

        biases = [p for n, p in model.named_parameters() if n.endswith("bias") and p.shape == (len(self.labels),)]
        if self.prior is not None and biases:
            chosen = list(range(len(self.labels)) if rows is None else rows)
            with torch.no_grad():
                biases[-1][chosen] = torch.tensor(self.prior, dtype=biases[-1].dtype)[chosen]

    @property
    def metric(self) -> str:
        """The score by which checkpoints are compared where the recipe names none."""
        return "f1" if self.kind == "entities" else "accuracy"

    def inferred(self) -> list[tuple[str, Any, str]]:
        """(recipe path, value, reason) of what the rows decided."""
        found: list[tuple[str, Any, str]] = []
        if self.options.kind == "auto":
            found.append(("task.kind", self.kind, f"the column {self.place.target!r}"))
        if self.place.target != self.data.label:
            found.append(("data.label", self.place.target, "the columns of the rows"))
        return found

    def noticed(self) -> list[str]:
        """What was noticed while rows were read."""
        read = [f"tags are read as {self.reading} and learned as {self.options.scheme}"] if self.reading != self.options.scheme else []
        return [*(read if self.kind == "entities" and self.place.tags else []), *(f"{n} {what}" for what, n in self._seen.items() if n)]

    def state(self) -> dict[str, Any]:
        """What a saved model needs to predict again."""
        return {"kind": self.kind, "labels": list(self.labels), "columns": self.place._asdict(), "reading": self.reading}

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Windows with, at the first token of each word, its number (`words`) and its tag (`tags`), UNGRADED elsewhere."""
        from luthier.tasks.words import windows

        found = windows(
            [r.text for r in records], [_words(r) for r in records], tokenizer, max_length=max_length, stride=self.options.stride
        )
        examples: list[dict[str, Any]] = []
        owner: list[int] = []
        rejected: dict[int, str] = {}
        for index, (record, laid) in enumerate(zip(records, found, strict=True)):
            if isinstance(laid, str):
                rejected[index] = laid
                continue
            for window in laid:
                marks = [UNGRADED if w < 0 or record.target is None else record.target[w] for w in window.words]
                self._slots = max(self._slots, sum(w >= 0 for w in window.words))
                examples.append({"input_ids": window.ids, "token_type_ids": window.types, "words": window.words, "tags": marks})
                owner.append(index)
        return Encoded(assemble_tokens(examples, owner=owner), rejected)

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """Tags lie in the examples, token by token."""
        return {}

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss function `(model, batch) -> Loss`, weighed by graded words."""
        import torch

        from luthier.models.batch import Loss
        from luthier.models.forward import place_logits

        smoothing = self.options.label_smoothing

        def loss(model: nn.Module, batch: Batch) -> Loss:
            places = (batch.layers["tags"] >= 0).nonzero()[:, 0]
            if not len(places):
                return Loss(torch.zeros((), device=batch.input_ids.device, requires_grad=True), 0.0)
            logits, gold = place_logits(model, batch, layout, places).float(), batch.layers["tags"][places]
            return Loss(torch.nn.functional.cross_entropy(logits, gold, label_smoothing=smoothing, reduction="sum"), float(len(places)))

        return loss

    def answer(self, layout: Layout) -> Callable[[nn.Module, Batch], Tensor]:
        """What evaluation asks of each segment: how many words it answers for, then for each the logits of its tags, in order.

        For a class a word it is the likeliest tag, its probability, and what the right one costs, since there may be
        hundreds of tags.
        """
        import torch

        from luthier.models.forward import place_logits

        def answer(model: nn.Module, batch: Batch) -> Tensor:
            marks, segments = batch.layers["words"] >= 0, batch.segments
            places, ranks = marks.nonzero()[:, 0], marks.cumsum(0)
            counts = torch.zeros(segments.count, dtype=torch.int64, device=marks.device).index_add_(0, segments.owner, marks.long())
            owner = segments.owner[places]
            slots = ranks[places] - 1 - (counts.cumsum(0) - counts)[owner]
            found = torch.zeros(segments.count, self._slots, self.figures.width, dtype=torch.float64, device=marks.device)
            if len(places):
                values = place_logits(model, batch, layout, places).double()
                found[owner, slots] = values if self.kind == "entities" else _summed_up(values, batch.layers["tags"][places])
            return torch.cat([counts[:, None].double(), found.flatten(1)], 1)

        return answer

    def combine(self, records: Sequence[Record]) -> Callable[[Array, NDArray[np.int64]], Array]:
        """What is made of the answers for these records' windows: each record's figures, and its words' tags."""
        import numpy as np

        def combined(found: Array, owner: NDArray[np.int64]) -> Array:
            values: list[list[Array]] = [[] for _ in records]
            for index, line in zip(owner.tolist(), found, strict=True):
                values[index].append(line[1:].reshape(-1, self.figures.width)[: int(line[0])])
            return self.figures.lines([np.concatenate(v) for v in values], [r.target for r in records])

        return combined

    def baseline(self, name: str, train: Sequence[Record], records: Sequence[Record]) -> Array:
        """Figures of the commonest tag: of all words (`majority`), or of each word (`lexicon`)."""
        pairs = ([(_words(r).forms, r.target) for r in part] for part in (train, records))
        return self.figures.commonest(*pairs, by_word=name == "lexicon")

    # ── outputs to predictions and scores ──────────────────────────────────────────────────────

    def decode(self, outputs: Array, records: Sequence[Record] = ()) -> list[dict[str, Any]]:
        """Predictions for people: tags of the words that were given, or spans of characters of a text."""
        return [self._decoded(record, line) for record, line in zip(records, outputs, strict=True)]

    def _decoded(self, record: Record, line: Array) -> dict[str, Any]:
        words = _words(record)
        tags, sure = self.figures.said(line, len(words.forms))
        if words.given:
            return {"words": list(words.forms), "tags": tags, "scores": sure}
        found = tagged.entities(tags) if self.kind == "entities" else [Entity(i, i + 1, t) for i, t in enumerate(tags)]
        spans = []
        for first, after, label in found:
            start, end = words.offsets[first][0], words.offsets[after - 1][1]
            score = math.fsum(sure[first:after]) / (after - first)
            spans.append({"start": start, "end": end, "label": label, "text": record.text[start:end], "score": score})
        return {"spans": spans}

    def text_score_names(self) -> tuple[str, ...]:
        """Nothing is written."""
        return ()

    def text_scorer(self) -> None:
        """Nothing is written."""

    def predictions(self, records: Sequence[Record], outputs: Array) -> list[dict[str, Any]]:
        """For each record its right tags, and what the model said."""
        return [{"target": self.figures.tags(r.target), **said} for r, said in zip(records, self.decode(outputs, records), strict=True)]

    def gold(self, records: Sequence[Record]) -> NDArray[Any]:
        """Graded words of each record, (n,)."""
        import numpy as np

        return np.array([sum(n >= 0 for n in r.target) for r in records], dtype=np.float64)

    def scores(self, gold: NDArray[Any], outputs: Array) -> dict[str, float]:
        """Every score of the kind."""
        return self.figures.scores(outputs)

    def classes(self, outputs: Array) -> list[dict[str, Any]]:
        """Scores of each type or tag, for the report."""
        return self.figures.classes(outputs)

    def row_loss(self, gold: NDArray[Any], outputs: Array) -> Array:
        """How wrong each row is, in [0, 1], for paired tests."""
        return self.figures.row_loss(outputs)


def _words(record: Record) -> Words:
    assert record.words is not None, "records of this task have words"
    return record.words


def _summed_up(values: Tensor, gold: Tensor) -> Tensor:
    """The likeliest tag, its probability, and the nats of the right one (0 where it is not known), (words, 3)."""
    import torch

    logs = values.log_softmax(1)
    best = logs.max(1)
    nats = -logs.gather(1, gold.clamp_min(0)[:, None])[:, 0] * (gold >= 0)
    return torch.stack([best.indices.double(), best.values.exp(), nats], 1)


def _kind(options: TaggingOptions, place: Columns, tags: Sequence[str]) -> Kind:
    """Entities or classes of words, as the recipe says or the tags look. Raises DataError where the two do not fit."""
    looks: Kind = "entities" if place.spans or tagged.are_tags(tags) else "words"
    if options.kind == "entities" and looks == "words":
        raise DataError("the tags do not look like B-PER, I-PER and O", where="data.label", remedy="set task.kind: words, or mend the tags")
    if options.kind == "words" and place.spans:
        raise DataError(f"{place.spans!r} holds spans, not a tag for each word", where="task.kind", remedy="set it to entities")
    return looks if options.kind == "auto" else options.kind
