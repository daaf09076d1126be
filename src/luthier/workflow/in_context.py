"""Examples in the prompt instead of training: how well a model answers after it is shown a few answered rows.

Enters: a finished run, or a recipe whose model is asked as it is, and rows. Leaves: the scores without examples and with
them, side by side on the same rows, and their paired differences. Nothing is trained. Examples come from the training part
or a file; no row that is asked is ever an example, and where not all fit into the context, fewer are shown.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.data.prepare import Record, need_columns
from luthier.data.rows import Rows, read
from luthier.errors import DataError, Fault, LuthierError, RecipeError
from luthier.evaluation.compare import paired
from luthier.evaluation.intervals import Score, with_intervals
from luthier.inference.predict import combining, outputs
from luthier.models import host as machine
from luthier.models import load as loading
from luthier.models.load import Loaded
from luthier.models.source import resolve
from luthier.recipe import Recipe, Resolved
from luthier.runs.store import Run
from luthier.tasks.text2text import BETWEEN
from luthier.workflow import written
from luthier.workflow.dataset import dataset
from luthier.workflow.lineage import name_its_model, recipe_of, refuse_changed_data
from luthier.workflow.measure import predictor_of

Select = Literal["random", "nearest"]
Array = NDArray[np.float64]
BLOCK = 500
"""Questions that are compared with all examples at once."""


@dataclass(frozen=True)
class InContext:
    """Scores without examples and with them, and each score's difference (value, low, high), with minus without."""

    without: dict[str, Score]
    shown: dict[str, Score]
    differences: dict[str, tuple[float, float, float]]
    used: dict[int, int]
    """How many rows were shown so many examples."""
    notes: list[str] = field(default_factory=list)


class Asked(NamedTuple):
    """A model with its task, the rows that it is asked, and those that it may be shown."""

    task: Any
    loaded: Loaded
    recipe: Recipe
    rows: list[Record]
    pool: list[Record]
    notes: list[str]


def in_context(
    of: Run | Resolved,
    files: Sequence[Path] = (),
    *,
    shots: int,
    select: Select = "random",
    examples: Path | None = None,
    resamples: int = 1000,
) -> InContext:
    """Score a run's model, or a recipe's before any training, with `shots` examples in the prompt and without.

    The rows are the test part, or those of `files`; the examples are from the training part, or from a file. Raises
    LuthierError for a task whose models do not answer in words, DataError where there are too few examples.
    """
    asked = _asked(of, files, examples)
    task, loaded, notes = asked.task, asked.loaded, list(asked.notes)
    if len(asked.pool) < shots:
        raise DataError(
            f"{len(asked.pool)} rows can be shown, fewer than {shots}",
            where="--shots",
            remedy="ask for fewer, or give more with --examples",
        )
    order = chosen(asked.rows, asked.pool, shots=shots, select=select, seed=asked.recipe.training.seed)
    shown, counts = fitted(task, loaded, asked.rows, [[asked.pool[i] for i in places] for places in order])
    fewer = sum(n for k, n in counts.items() if k < shots)
    if fewer:
        notes.append(
            f"{fewer} of {len(asked.rows)} rows are shown fewer than {shots} examples: no more fit into {loaded.max_length} tokens"
        )
    both = [_encoded(task, loaded, rows).rejected for rows in (asked.rows, shown)]
    kept = [i for i in range(len(shown)) if not any(i in rejected for rejected in both)]
    if len(kept) < len(shown):
        notes.append(f"{len(shown) - len(kept)} rows are left out: {next(iter((both[0] | both[1]).values()))}")
    if not kept:
        raise DataError("no row is left to ask", remedy="the model's context is too short for these rows")
    plain, with_them = [asked.rows[i] for i in kept], [shown[i] for i in kept]
    gold = task.gold(plain)
    arms = [_figures(task, loaded, rows, asked.recipe) for rows in (plain, with_them)]
    scores = [with_intervals(task.scores, gold, lines, resamples=resamples) for lines in arms]
    draw = np.random.default_rng(0)
    differences = paired(task.scores, gold, *arms, resamples=resamples, draw=draw)
    places = written.drawn(task, plain, asked.recipe)
    a, b = (_written(task, loaded, [rows[i] for i in places], asked.recipe) for rows in (plain, with_them))
    if a is not None and b is not None:
        scorer = written.Scorer(task)
        scores = [s | scorer.with_intervals(lines, resamples=resamples) for s, lines in zip(scores, (a, b), strict=True)]
        differences |= paired(scorer, np.zeros(len(a)), a, b, resamples=resamples, draw=draw)
    return InContext(scores[0], scores[1], differences, dict(sorted(counts.items())), notes)


def chosen(rows: Sequence[Record], pool: Sequence[Record], *, shots: int, select: Select, seed: int) -> list[list[int]]:
    """For each row the places of its examples in the pool, the one to stand next to the question last.

    `random` draws them from the seed and the row's text; `nearest` are those whose TF-IDF is most like the row's, which
    does better than chance (Liu et al. 2022), the nearest last.
    """
    if select == "random":
        return [random.Random(f"{seed}/{row.key}").sample(range(len(pool)), shots) for row in rows]
    from sklearn.feature_extraction.text import TfidfVectorizer

    words = TfidfVectorizer(sublinear_tf=True)
    try:
        known = words.fit_transform([r.text for r in pool])
    except ValueError:  # no words at all: nothing is near anything
        return chosen(rows, pool, shots=shots, select="random", seed=seed)
    found: list[list[int]] = []
    for first in range(0, len(rows), BLOCK):
        near = (words.transform([r.text for r in rows[first : first + BLOCK]]) @ known.T).toarray()
        found += [line.tolist()[::-1] for line in np.argsort(-near, axis=1, kind="stable")[:, :shots]]
    return found


def fitted(task: Any, loaded: Loaded, rows: Sequence[Record], examples: Sequence[Sequence[Record]]) -> tuple[list[Record], Counter[int]]:
    """The rows with as many of their examples as fit, those next to the question first; and how many rows got how many."""
    config, length = loaded.model.config, loaded.max_length
    left = {i: list(e) for i, e in enumerate(examples)}
    found: dict[int, Record] = {}
    counts: Counter[int] = Counter()
    while left:
        tried = {i: task.with_examples(rows[i], e) for i, e in left.items()}
        fits = task.fits(list(tried.values()), loaded.tokenizer, config=config, max_length=length)
        for (i, record), fit in zip(tried.items(), fits, strict=True):
            if fit or not left[i]:
                found[i] = record
                counts[len(left.pop(i))] += 1
            else:
                del left[i][0]
    return [found[i] for i in range(len(rows))], counts


def _asked(of: Run | Resolved, files: Sequence[Path], examples: Path | None) -> Asked:
    """The model, its task grading the answers that are asked for alone, and the rows."""
    resolved = recipe_of(of) if isinstance(of, Run) else of
    recipe = resolved.recipe
    if recipe.task.type not in ("chat", "text2text", "causal"):
        raise LuthierError(
            f"examples in the prompt are for models that write (chat, text2text, causal), not for {recipe.task.type}",
            where="--shots",
            remedy="train on them instead: task: few_shot" if recipe.task.type == "classification" else "take it out",
        )
    if isinstance(of, Run):
        refuse_changed_data(of)
    data = dataset(resolved)
    if isinstance(of, Run):
        loaded = predictor_of(of).loaded
    else:
        if recipe.model.from_scratch is not None:
            raise RecipeError(
                [Fault("a new model has learned nothing that could be asked", "model.from_scratch", "train it first, and name its run")]
            )
        name_its_model(resolved)
        host = machine.set_up(device=recipe.training.device, threads=recipe.training.threads, precision="fp32")
        loaded = loading.load(resolve(recipe.model, folder=resolved.folder), recipe.model, head=data.task.head, attention="auto")
        loaded.model.to(host.device).eval()  # type: ignore[arg-type]
    if recipe.model.max_length != "auto":
        loaded.max_length = min(loaded.max_length, recipe.model.max_length)
    rest = Rows()
    rows = _read(files, data.task, recipe, rest) if files else data.prepared.parts["test"]
    pool = _read([examples], data.task, recipe, rest) if examples is not None else data.prepared.parts["train"]
    tested = {r.key for r in rows}
    free = [r for r in pool if r.key not in tested]
    notes = [f"{len(rest.quarantined)} rows cannot be used, the first: {rest.quarantined[0].reason}"] if rest.quarantined else []
    if len(free) < len(pool):
        notes.append(f"{len(pool) - len(free)} rows are no examples: they ask what a row of the test asks")
    return Asked(data.task.answering(), loaded, recipe, rows, free, notes)


def _read(files: Sequence[Path], task: Any, recipe: Recipe, rest: Rows) -> list[Record]:
    """The usable rows of files; what is wrong with the others goes to `rest`."""
    from luthier.data.rows import Quarantined

    found: list[Record] = []
    for file in files:
        data = recipe.data
        rows = read(file, format=data.format, encoding=data.encoding, columns=data.columns, separator=data.separator, text=data.text)
        need_columns(rows, task.columns())
        checked = [(row, task.record(row)) for row in rows.rows]
        found += [r for _, r in checked if isinstance(r, Record)]
        rest.quarantined += [*rows.quarantined, *(Quarantined(w.file, w.line, r, "") for w, r in checked if isinstance(r, str))]
    if not found:
        raise DataError("no usable rows", where=", ".join(map(str, files)), remedy="the file needs the columns of training")
    return found


def _encoded(task: Any, loaded: Loaded, rows: Sequence[Record]) -> Any:
    return task.encode(rows, loaded.tokenizer, config=loaded.model.config, max_length=loaded.max_length)


def _figures(task: Any, loaded: Loaded, rows: Sequence[Record], recipe: Recipe) -> Array:
    """What each row's right answer costs the model, (rows, 3)."""
    tokens, layout = loaded.lay(_encoded(task, loaded, rows).tokens), loaded.layout
    most = recipe.evaluation.max_tokens
    return outputs(loaded.model, tokens, layout, answer=task.answer(layout), max_tokens=most, combine=combining(task, rows))


def _written(task: Any, loaded: Loaded, rows: Sequence[Record], recipe: Recipe) -> Array | None:
    """The figures of what the model writes for rows; a model that goes on with another example has its answer taken alone."""
    if not task.text_score_names():
        return None
    most = recipe.evaluation.max_tokens
    texts = written.answers(task, loaded, rows, max_length=loaded.max_length, max_tokens=most)
    if hasattr(task, "first_answer") and not any(BETWEEN in t for r in rows for t in r.target):
        texts = [task.first_answer(t) for t in texts]
    return written.figures_of(task, loaded, rows, texts, max_tokens=most)
