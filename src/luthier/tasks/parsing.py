"""Dependency parsing: for each word of a sentence its head and their relation, together a tree.

Enters: rows with words, heads and relations, such as CoNLL-U files hold. Leaves: examples with the head and relation
of each word at its first token, the loss of a batch, trees, and the scores of CoNLL 2018, punctuation counted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.prepare import Record, Words, need_columns
from luthier.data.rows import Row, Rows
from luthier.data.split import Part
from luthier.data.tokens import UNGRADED, Encoded, assemble_tokens
from luthier.data.treebank import sentence
from luthier.errors import DataError
from luthier.tasks.marked import Columns, marked
from luthier.tasks.trees import fault
from luthier.tasks.words import windows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor, nn

    from luthier.models.batch import Batch, Loss
    from luthier.models.forward import Layout
    from luthier.models.heads import Head
    from luthier.recipe.sections import Data
    from luthier.recipe.tasks.parsing import ParsingOptions

NATS, HEADS, BOTH, UNIVERSAL, RELATIONS, SLOTS = range(6)
"""Columns of a sentence's figures: nats, words with the right head; these with the right relation too, with its universal
part; words with the right relation. From SLOTS on, each word's arc as one number: head x relations + relation; -1 for none."""
AT_ROOT, BELOW = 1, 2
FEWEST_SLOTS = 256


class Parsing:
    """The task, with the relations of the training rows.

    `uses` says for each relation whether it leads from the root, from a word, or both; `longest` is the number of words of
    the longest sentence that can be answered.
    """

    name = kind = "parsing"
    extends = True
    writes = answers = converses = alters = masked = False
    baselines: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    metric = "las"
    fewest_updates, fewest_epochs, most_epochs = 1500, 3, 20
    rate, rate_width = 2e-4, 384

    def __init__(self, options: ParsingOptions, data: Data, *, relations: Sequence[str], uses: Sequence[int], longest: int) -> None:
        self.options, self.data, self.relations, self.uses, self.longest = options, data, tuple(relations), tuple(uses), longest
        self._index = {name: i for i, name in enumerate(relations)}

    # ── rows to records ────────────────────────────────────────────────────────────────────────

    @classmethod
    def plan(cls, options: ParsingOptions, data: Data, rows: dict[Part, Rows], *, earlier: Parsing | None = None) -> Parsing:
        """Find the relations in the training rows.

        Raises DataError for missing columns, where no row is a tree, or for relations that an `earlier` task has not.
        """
        task = cls(options, data, relations=(), uses=(), longest=FEWEST_SLOTS)
        for part in rows.values():
            need_columns(part, task.columns())
        found = {part: [r for row in held.rows if isinstance(r := task.record(row), Record)] for part, held in rows.items()}
        if not found["train"]:
            first = next((why for row in rows["train"].rows if isinstance(why := task.record(row), str)), "the file has none")
            raise DataError(f"no training sentence can be used; the first: {first}", where="data.train", remedy="mend the file")
        uses: Counter[str] = Counter()
        for heads, relations in (r.target for r in found["train"]):
            for head, name in zip(heads, relations, strict=True):
                uses[name] |= BELOW if head else AT_ROOT
        longest = max(len(r.target[0]) for records in found.values() for r in records)
        if earlier is not None:
            if others := sorted(set(uses) - set(earlier.relations)):
                raise DataError(
                    f"the earlier run knows no relation {others[0]!r}, and a parser's head takes no new ones",
                    where=f"data.{options.relations}",
                    remedy="train a new run on all the rows together",
                )
            uses = Counter({n: use | uses[n] for n, use in zip(earlier.relations, earlier.uses, strict=True)})
            longest = max(longest, earlier.longest)
        names = sorted(uses) if earlier is None else list(earlier.relations)
        return cls(options, data, relations=names, uses=[uses[n] for n in names], longest=max(longest, FEWEST_SLOTS))

    def columns(self) -> dict[str, str]:
        """The columns that records are made of, each with the recipe path that names it."""
        return {self.options.words: "task.words", self.options.heads: "task.heads", self.options.relations: "task.relations"}

    def record(self, row: Row) -> Record | str:
        """The row's words and tree, or why it cannot be used."""
        found = self.texts(row.values)
        if isinstance(found, str):
            return found
        if found.words is None or not found.words.given:
            return f"no {self.options.words}"
        target = self._tree(row.values, len(found.words.forms))
        return target if isinstance(target, str) else replace(found, target=target, file=row.file, line=row.line)

    def texts(self, values: Mapping[str, Any]) -> Record | str:
        """The sentence to be parsed, or what is wrong with it: its words where they are given, else those found in its text."""
        found = marked(values, Columns(self.data.text, self.options.words, None, None), graded=False)
        return found if isinstance(found, str) else Record(found.text, None, None, "", 0, found.words)

    def _tree(self, values: Mapping[str, Any], count: int) -> tuple[tuple[int, ...], tuple[str, ...]] | str:
        """Heads and relations of a row, or why they are no tree."""
        heads, relations = values.get(self.options.heads), values.get(self.options.relations)
        for name, cells in ((self.options.heads, heads), (self.options.relations, relations)):
            if not isinstance(cells, list):
                return f"{name} is not a list"
            if len(cells) != count:
                return f"{len(cells)} cells of {name} for {count} words"
            empty = next((i for i, c in enumerate(cells, 1) if c is None or not str(c).strip()), None)
            if empty is not None:
                return f"no {name} for word {empty}"
        assert isinstance(heads, list), "it has a length"
        assert isinstance(relations, list), "it has a length"
        odd = next((h for h in heads if isinstance(h, bool) or not str(h).isdecimal()), None)
        if odd is not None:
            return f"a head is {odd!r}, not a number"
        numbers = tuple(int(h) for h in heads)
        why = fault(numbers)
        if why:
            return f"not a tree: {why}"
        names = (str(r).strip() for r in relations)
        return numbers, tuple(n if self.options.subtypes else n.partition(":")[0] for n in names)

    def stratum(self, record: Record) -> str:
        """Nothing to balance the split by."""
        return "all"

    def corpus(self, records: Sequence[Record]) -> list[str]:
        """All text that a new tokenizer should know."""
        return [r.text for r in records]

    # ── relation statistics ────────────────────────────────────────────────────────────────────

    def fit(self, train: Sequence[Record]) -> None:
        """Nothing more is learned from the records before training."""

    def label_counts(self, records: Sequence[Record]) -> dict[str, int]:
        """Arcs of each relation, also of those that training has not."""
        counts = Counter(name for r in records for name in r.target[1])
        return {name: counts[name] for name in [*self.relations, *sorted(set(counts) - set(self.relations))]}

    @property
    def outputs(self) -> int:
        """Figures of each record."""
        return SLOTS + self.longest

    @property
    def head_rate(self) -> float:
        """How many times as fast the head learns as a whole model would."""
        return self.options.head_rate

    def head(self, config: Any) -> Head:
        """A biaffine head on the states of words."""
        from luthier.models.biaffine import biaffine
        from luthier.models.heads import Head

        options = self.options
        make = biaffine(arc_width=options.arc_width, label_width=options.label_width, labels=len(self.relations), dropout=options.dropout)
        return Head("module", module=make)

    def start(self, model: nn.Module) -> None:
        """The head's forms begin at zero."""

    def inferred(self) -> list[tuple[str, Any, str]]:
        """(recipe path, value, reason) of what the rows decided."""
        return []

    def state(self) -> dict[str, Any]:
        """What a saved model needs to parse again."""
        return {"relations": list(self.relations), "uses": list(self.uses), "longest": self.longest}

    # ── batches to losses ──────────────────────────────────────────────────────────────────────

    def encode(
        self, records: Sequence[Record], tokenizer: Any, *, config: Any, max_length: int, cache: Path | None = None, train: bool = False
    ) -> Encoded:
        """Each sentence whole: what is longer than the model takes is rejected, since a part of a tree is none.

        The layers mark the first token of each word with its number from 0, its head's from 1 (0 is the root), and its relation.
        """
        import numpy as np

        texts, words = [r.text for r in records], [words_of(r) for r in records]
        examples: list[dict[str, Any]] = []
        owner: list[int] = []
        rejected: dict[int, str] = {}
        for index, found in enumerate(windows(texts, words, tokenizer, max_length=max_length, stride=0)):
            count = len(words[index].forms)
            if isinstance(found, str):
                rejected[index] = found
            elif len(found) > 1:
                rejected[index] = f"sentence too long: more than the {max_length} tokens that fit"
            elif count > self.longest:
                rejected[index] = f"sentence too long: {count} words, where the model parses {self.longest}"
            else:
                begun = np.array(found[0].words)
                layers = {n: np.full(len(begun), UNGRADED) for n in ("head", "relation")}
                if records[index].target is not None:
                    heads, relations = records[index].target
                    layers["head"][begun >= 0] = heads
                    layers["relation"][begun >= 0] = [self._index.get(name, UNGRADED) for name in relations]
                examples.append({"input_ids": found[0].ids, "token_type_ids": found[0].types, "words": begun, **layers})
                owner.append(index)
        return Encoded(assemble_tokens(examples, owner=owner), rejected)

    def targets(self, records: Sequence[Record]) -> dict[str, Tensor]:
        """Heads and relations lie in the examples, word by word."""
        return {}

    def answer(self, layout: Layout) -> Callable[[nn.Module, Batch], Tensor]:
        """What evaluation asks of each sentence: its nats, what is right of the best tree, and the tree."""
        from luthier.models.biaffine import arc_figures
        from luthier.tasks.trees import on_tensors

        trees, kinds = on_tensors(), [name.partition(":")[0] for name in self.relations]
        universal = [kinds.index(kind) for kind in kinds]
        allowed = [[bool(use & side) for use in self.uses] for side in (AT_ROOT, BELOW)]
        allowed = [side if any(side) else [True] * len(side) for side in allowed]

        def figures(model: nn.Module, batch: Batch) -> Tensor:
            return arc_figures(model, batch, layout, trees=trees, universal=universal, allowed=allowed, slots=self.longest)

        return figures

    def loss(self, layout: Layout) -> Callable[[nn.Module, Batch], Loss]:
        """The loss function `(model, batch) -> Loss`: of heads, and of relations at the true heads, weighed by words."""
        from luthier.models.biaffine import arc_loss

        return lambda model, batch: arc_loss(model, batch, layout)

    # ── outputs to predictions and scores ──────────────────────────────────────────────────────

    def decode(self, outputs: NDArray[np.float64], records: Sequence[Record] = ()) -> list[dict[str, Any]]:
        """Trees for people: the words, and each one's head and relation."""
        return [self._decoded(words_of(record), line) for record, line in zip(records, outputs, strict=True)]

    def _decoded(self, words: Words, line: NDArray[np.float64]) -> dict[str, Any]:
        arcs = line[SLOTS : SLOTS + len(words.forms)].astype(int).tolist()
        heads, relations = zip(*(divmod(arc, len(self.relations)) for arc in arcs), strict=True)
        return {"words": list(words.forms), "head": list(heads), "deprel": [self.relations[r] for r in relations]}

    def conllu(self, rows: Sequence[str | Mapping[str, Any]], answers: Sequence[Mapping[str, Any]]) -> str:
        """What `decode` said of rows, as the text of a CoNLL-U file, with the other layers that the rows have."""
        parts = []
        for row, said in zip(rows, answers, strict=True):
            values = {self.data.text: row} if isinstance(row, str) else row
            found = self.texts(values)
            assert isinstance(found, Record), "a row that was answered"
            parts.append(sentence(found.text, words_of(found), {**values, "head": said["head"], "deprel": said["deprel"]}))
        return "".join(parts)

    def text_score_names(self) -> tuple[str, ...]:
        """Nothing is written."""
        return ()

    def text_scorer(self) -> None:
        """Nothing is written."""

    def predictions(self, records: Sequence[Record], outputs: NDArray[np.float64]) -> list[dict[str, Any]]:
        """For each record its tree, and the one that the model gave it."""
        return [
            {"target": {"head": list(r.target[0]), "deprel": list(r.target[1])}, **said}
            for r, said in zip(records, self.decode(outputs, records), strict=True)
        ]

    def gold(self, records: Sequence[Record]) -> NDArray[Any]:
        """Words of each record, (n,)."""
        import numpy as np

        return np.array([float(len(r.target[0])) for r in records])

    def scores(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> dict[str, float]:
        """Shares of all words: right head (uas), right head and relation (las), right relation."""
        nats, heads, both, universal, relations = (outputs[:, column].sum() for column in range(SLOTS))
        words = max(gold.sum(), 1.0)
        found = {"uas": heads / words, "las": both / words, "label_accuracy": relations / words, "loss": nats / words}
        return {**found, "las_universal": universal / words} if self.options.subtypes else found

    def row_loss(self, gold: NDArray[Any], outputs: NDArray[np.float64]) -> NDArray[np.float64]:
        """How wrong each sentence is, 1 - LAS, for paired tests."""
        return 1.0 - outputs[:, BOTH] / gold


def words_of(record: Record) -> Words:
    """The words that a record of this task always has."""
    assert record.words is not None, "records of this task have words"
    return record.words
