"""All that is looked for in one file: the order of the looks, and what they share.

Enters: texts and their labels (or none), a model's name, and perhaps the texts of another file. Leaves: a `Survey`: findings by
kind, each ranked, with notes of what could not be looked at. Vectors are computed once; the probabilities come from rows that a
model did not learn from, and copies never vouch for each other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from luthier.errors import DataError
from luthier.workshop.embed import MODEL, embed
from luthier.workshop.quality.balance import balance
from luthier.workshop.quality.difficulty import easy, hard
from luthier.workshop.quality.drifted import Other, drifted
from luthier.workshop.quality.finding import KINDS, Finding, Kind, placed
from luthier.workshop.quality.folds import FOLDS, out_of_fold
from luthier.workshop.quality.inconsistent import copies, inconsistent
from luthier.workshop.quality.label_errors import judge
from luthier.workshop.quality.neighbours import NEAREST, neighbours
from luthier.workshop.quality.ngrams import presence
from luthier.workshop.quality.outliers import outliers
from luthier.workshop.quality.shortcuts import shortcuts
from luthier.workshop.quality.triggers import FEWEST, LONGEST, triggers
from luthier.workshop.quality.worded import with_words

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.workflow.similar import Named

MOST = 100
"""Hard and easy rows that are listed; there is no end to either."""


@dataclass(frozen=True)
class Survey:
    """What was found, by kind; and what was not looked at, and why."""

    findings: dict[Kind, list[Finding]]
    notes: list[str] = field(default_factory=list)
    computed: int = 0
    """Vectors that had to be computed rather than found."""


def survey(
    texts: Sequence[str],
    labels: Sequence[str] | None,
    *,
    model: Named = MODEL,
    against: Other | None = None,
    seed: int = 0,
    say: Callable[[str], None] = lambda _: None,
) -> Survey:
    """Look for everything. Raises DataError where there is nothing to look at, or the labels cannot be learned from."""
    import numpy as np

    if not texts:
        raise DataError("there is no text to look at", remedy="name the column of texts with --text")
    names = sorted(set(labels)) if labels is not None else []
    place = {name: number for number, name in enumerate(names)}
    gold = np.array([place[x] for x in labels or ()], np.int64)
    if labels is not None:
        _learnable(gold, names)
    say(f"vectors of {len(texts):,} texts")
    embedded = embed(texts, model=model)
    vectors = embedded.vectors
    say("neighbours")
    near = neighbours(vectors, k=NEAREST, seed=seed)
    found: dict[Kind, list[Finding]] = {kind: [] for kind in KINDS}
    notes = list(embedded.notes)
    found["outlier"] = outliers(texts, near)
    if against is not None:
        say("drift")
        found["drift"] = drifted(texts, labels, against, vectors=vectors, theirs=embed(against.texts, model=model).vectors, seed=seed)
    if labels is None:
        notes.append("there are no labels: only outliers" + (" and drift" if against else "") + " are looked for")
        return Survey(found, notes, embedded.computed)
    say("what rows say of each other's labels")
    groups = copies(texts, near)
    found["inconsistent"] = inconsistent(texts, gold, groups, names)
    found["balance"] = balance(gold, names)
    judged = judge(with_words(texts, vectors), gold, names, groups=groups, seed=seed)
    notes += judged.notes
    kept, chances, own = judged.gold, judged.chances, judged.names
    found["label_error"] = judged.errors()
    if chances is not None:
        sure = np.flatnonzero(~np.isin(judged.rows, [f.rows[0] for f in found["label_error"]]))
        found["hard"] = placed(hard(kept[sure], chances[sure], own, most=MOST), judged.rows[sure])
        found["easy"] = placed(easy(kept[sure], chances[sure], own, most=MOST), judged.rows[sure])
    say("words that turn or give away the label")
    chosen = [texts[i] for i in judged.rows.tolist()]
    phrases = presence(chosen, longest=LONGEST, fewest=FEWEST)
    meaning = vectors[judged.rows]  # a model that saw the words would take a trigger for a reason
    unworded = out_of_fold(meaning, kept, classes=len(own), groups=groups[judged.rows], seed=seed)
    found["trigger"] = placed(triggers(chosen, kept, meaning, unworded, own, among=phrases, seed=seed), judged.rows)
    found["shortcut"] = placed(shortcuts(chosen, kept, own, among=phrases), judged.rows)
    return Survey(found, notes, embedded.computed)


def _learnable(gold: NDArray[np.int64], names: Sequence[str]) -> None:
    import numpy as np

    if len(names) < 2:
        raise DataError(
            f"every row has the label {names[0]!r}", remedy="name the column of labels with --label, or leave labels out with --label none"
        )
    counts = np.bincount(gold, minlength=len(names))
    if (counts >= FOLDS).sum() < 2:
        raise DataError(
            f"{len(names)} different labels on {len(gold)} rows: fewer than two of them have {FOLDS} rows",
            remedy="name the column of labels with --label; or find more rows of each class, or leave labels out with --label none",
        )
