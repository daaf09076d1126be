"""What a model writes for the rows of a part, and how good it is: for tasks whose answers are texts.

Enters: a job, before or after its training. Leaves: one text a row, and for encoders the cost of each
row's tokens when every one is hidden in turn. The same code answers in evaluation and for `generate`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from luthier.data.prepare import Record
from luthier.data.split import Part
from luthier.evaluation.intervals import Score, with_intervals
from luthier.inference.fill import pseudo_figures, pseudo_scores
from luthier.inference.generate import Sampling, beams, generate
from luthier.tasks.texts import NAMES
from luthier.tasks.tokenizer import stop_ids
from luthier.workflow.build import Job

Array = NDArray[np.float64]


def rows_of(job: Job, part: Part) -> Sequence[Record]:
    """The rows of a part that are answered in full: drawn with the seed, since files are often sorted."""
    records, count = job.data.prepared.parts[part], job.resolved.recipe.evaluation.written
    if count >= len(records):
        return records
    places = random.Random(job.resolved.recipe.training.seed).sample(range(len(records)), count)
    return [records[place] for place in sorted(places)]


def write(job: Job, part: Part) -> list[str]:
    """The model's texts for those rows of a part; plain text is continued with a little chance, the rest greedily."""
    task, loaded = job.task, job.loaded
    records = rows_of(job, part)
    if not task.writes or not records:
        return []
    length, config = job.plan.max_length, loaded.model.config
    prompts = [[*loaded.virtual, *p] for p in task.ask(records, loaded.tokenizer, config=config, max_length=length)]
    length += len(loaded.virtual)
    stops = stop_ids(loaded.tokenizer, config=config)
    most, budget = task.options.max_new_tokens, job.resolved.recipe.evaluation.max_tokens
    if getattr(task.options, "beams", 1) > 1:
        found = beams(
            loaded.model,
            prompts,
            beams=task.options.beams,
            stop_ids=stops,
            max_new_tokens=most,
            pad_id=loaded.layout.pad_id,
            max_length=length,
            max_tokens=budget,
        )
        return [str(loaded.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in found]
    free = not task.answers
    sampling = Sampling(max_new_tokens=most, temperature=0.8 if free else 0.0, top_p=0.95 if free else None, seed=0)
    answers = generate(loaded.model, loaded.tokenizer, prompts, sampling, stop_ids=stops, max_length=length, max_tokens=budget)
    return [a[0].text if free else a[0].text.strip() for a in answers]


def answered(job: Job) -> int:
    """The test rows on which texts are scored."""
    return len(rows_of(job, "test")) if job.task.text_score_names() else 0


def own_names(job: Job) -> list[str]:
    """The scores that the recipe adds."""
    scorer = job.task.text_scorer()
    return [n for n in scorer.names if n not in NAMES] if scorer else []


def figures(job: Job, part: Part, texts: Sequence[str]) -> Array | None:
    """The figures that the scores of texts are made of, one line a row; None where there is nothing to score."""
    task, records = job.task, rows_of(job, part)
    if task.masked:
        budget = job.resolved.recipe.evaluation.max_tokens
        return pseudo_figures(job.loaded, [r.text for r in records], max_tokens=budget) if records else None
    scorer = task.text_scorer()
    return scorer.figures(texts, task.references(records)) if scorer is not None and texts else None


def scores(job: Job, found: Array) -> dict[str, float]:
    """The scores of some rows' figures."""
    return _scorer(job)(None, found)


def scores_with_intervals(job: Job, found: Array) -> dict[str, Score]:
    """The scores with their intervals."""
    return with_intervals(_scorer(job), np.zeros(len(found)), found, resamples=job.resolved.recipe.evaluation.bootstrap)


def _scorer(job: Job) -> Any:
    return pseudo_scores if job.task.masked else job.task.text_scorer().scores


def samples(job: Job, before: Sequence[str], after: Sequence[str]) -> list[dict[str, Any]]:
    """Side by side: what was asked, what should be said, and what the model said before and after."""
    if not after:
        return []
    records = rows_of(job, "test")
    asked, gold = job.task.questions(records), job.task.references(records)
    return [
        {"asked": q, "reference": g[0] if g else None, "before": before[i] if i < len(before) else None, "after": after[i]}
        for i, (q, g) in enumerate(zip(asked, gold, strict=True))
    ]
