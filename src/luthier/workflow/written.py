"""What a model writes for the rows of a part, and how good it is: for tasks whose answers are texts.

Enters: a job, before or after its training. Leaves: one text a row, and for encoders the cost of each
row's tokens when every one is hidden in turn. The same code answers in evaluation and for `generate`.
Of several tasks in one model each is answered and scored as it would be alone.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from luthier.data.prepare import Record
from luthier.data.split import Part
from luthier.evaluation.intervals import Score, Strata, with_intervals
from luthier.inference.fill import pseudo_figures, pseudo_scores
from luthier.inference.generate import Sampling, beams, generate
from luthier.models.load import Loaded
from luthier.recipe import Recipe
from luthier.tasks.texts import NAMES
from luthier.tasks.tokenizer import stop_ids
from luthier.workflow.build import Job

Array = NDArray[np.float64]


class Own(NamedTuple):
    """One task's rows: its name (empty for a task alone), the task, where its rows stand among all, and the rows."""

    name: str
    task: Any
    places: list[int]
    records: Sequence[Record]


def each(task: Any, records: Sequence[Record]) -> Iterator[Own]:
    """The rows task by task."""
    if task.kind != "multitask":
        yield Own("", task, list(range(len(records))), records)
        return
    for name, own in task.tasks.items():
        yield Own(name, own, task.places(name, records), task.own(name, records))


def places_of(job: Job, part: Part) -> list[int]:
    """The numbers of the rows of a part that are answered in full."""
    return drawn(job.task, job.data.prepared.parts[part], job.resolved.recipe)


def drawn(task: Any, records: Sequence[Record], recipe: Recipe) -> list[int]:
    """Of records, those that a recipe has answered in full: drawn with the seed, since files are often sorted; so many of each task."""
    count, seed = recipe.evaluation.written, recipe.training.seed
    found: list[int] = []
    for own in each(task, records):
        few = count < len(own.places)
        found += [own.places[i] for i in random.Random(seed).sample(range(len(own.places)), count)] if few else own.places
    return sorted(set(found))


def rows_of(job: Job, part: Part) -> Sequence[Record]:
    """Those rows."""
    records = job.data.prepared.parts[part]
    return [records[place] for place in places_of(job, part)]


def write(job: Job, part: Part) -> list[str]:
    """The model's texts for those rows of a part."""
    budget = job.resolved.recipe.evaluation.max_tokens
    return answers(job.task, job.loaded, rows_of(job, part), max_length=job.plan.max_length, max_tokens=budget)


def answers(task: Any, loaded: Loaded, records: Sequence[Record], *, max_length: int, max_tokens: int) -> list[str]:
    """What a model writes for records: each task with its own prompts, beams and longest answer; none where it does not write."""
    if not task.writes or not records:
        return []
    texts = [""] * len(records)
    for own in each(task, records):
        found = _written(own.task, loaded, own.records, max_length=max_length, max_tokens=max_tokens) if own.records else []
        if not own.name:
            return found
        for place, text in zip(own.places, found, strict=True):
            texts[place] = text
    return texts


def _written(task: Any, loaded: Loaded, records: Sequence[Record], *, max_length: int, max_tokens: int) -> list[str]:
    """One task's texts; plain text is continued with a little chance, the rest greedily."""
    config = loaded.model.config
    prompts = [[*loaded.virtual, *p] for p in task.ask(records, loaded.tokenizer, config=config, max_length=max_length)]
    length, most = max_length + len(loaded.virtual), task.options.max_new_tokens
    stops = stop_ids(loaded.tokenizer, config=config)
    if getattr(task.options, "beams", 1) > 1:
        found = beams(
            loaded.model,
            prompts,
            beams=task.options.beams,
            stop_ids=stops,
            max_new_tokens=most,
            pad_id=loaded.layout.pad_id,
            max_length=length,
            max_tokens=max_tokens,
        )
        return [str(loaded.tokenizer.decode(ids, skip_special_tokens=True)).strip() for ids in found]
    free = not task.answers
    sampling = Sampling(max_new_tokens=most, temperature=0.8 if free else 0.0, top_p=0.95 if free else None, seed=0)
    texts = generate(loaded.model, loaded.tokenizer, prompts, sampling, stop_ids=stops, max_length=length, max_tokens=max_tokens)
    return [a[0].text if free else a[0].text.strip() for a in texts]


def answered(job: Job) -> int:
    """The test rows on which texts are scored."""
    return len(places_of(job, "test")) if job.task.text_score_names() else 0


def own_names(job: Job) -> list[str]:
    """The scores that the recipe adds."""
    return [n for n in job.task.text_score_names() if n not in (*NAMES, "pseudo_perplexity")] if job.task.kind != "multitask" else []


def figures(job: Job, part: Part, texts: Sequence[str]) -> Array | None:
    """The figures that the scores of texts are made of, one line a row; None where there is nothing to score."""
    budget = job.resolved.recipe.evaluation.max_tokens
    return figures_of(job.task, job.loaded, rows_of(job, part), texts, max_tokens=budget)


def figures_of(task: Any, loaded: Loaded, records: Sequence[Record], texts: Sequence[str], *, max_tokens: int) -> Array | None:
    """The same for any records. Of several tasks, a line begins with the task's number and how many figures it has."""
    lines: list[tuple[int, Own, Array]] = []
    for number, own in enumerate(each(task, records)):
        if not own.records:
            continue
        if own.task.masked:
            found = pseudo_figures(loaded, [r.text for r in own.records], max_tokens=max_tokens)
        else:
            scorer = own.task.text_scorer()
            if scorer is None or not texts:
                return None
            said = [texts[place] for place in own.places] if own.name else texts
            found = own.task.figures(said, own.records)
        if not own.name:
            return found
        lines.append((number, own, found))
    if not lines:
        return None
    whole = np.zeros((len(records), 2 + max(found.shape[1] for _, _, found in lines)))
    for number, own, found in lines:
        whole[own.places, :2] = number, found.shape[1]
        whole[own.places, 2 : 2 + found.shape[1]] = found
    return whole


def scores(job: Job, found: Array) -> dict[str, float]:
    """The scores of some rows' figures; of several tasks each one's under its name, and the mean of their main ones."""
    return Scorer(job.task)(None, found)


def scores_with_intervals(job: Job, found: Array) -> dict[str, Score]:
    """The scores with their intervals."""
    return Scorer(job.task).with_intervals(found, resamples=job.resolved.recipe.evaluation.bootstrap)


class Scorer:
    """The scorer of a task's written texts, or of several tasks'."""

    def __init__(self, task: Any) -> None:
        self._task = task
        tasks = task.tasks if task.kind == "multitask" else {"": task}
        self._own = {n: pseudo_scores if t.masked else t.text_scorer().scores for n, t in tasks.items()}

    def __call__(self, gold: Any, found: Array) -> dict[str, float]:
        if "" in self._own:
            return dict(self._own[""](gold, found))
        scored: dict[str, float] = {}
        for number, (name, scorer) in enumerate(self._own.items()):
            lines = found[found[:, 0] == number]
            if len(lines):
                scored |= {f"{name}.{n}": v for n, v in scorer(None, lines[:, 2 : 2 + int(lines[0, 1])]).items()}
        return self._task.mean(scored) | scored

    def with_intervals(self, found: Array, *, resamples: int) -> dict[str, Score]:
        """Every score with its interval."""
        return with_intervals(self, np.zeros(len(found)), found, resamples=resamples, strata=self.strata(found))

    def strata(self, found: Array) -> Strata | None:
        """Which rows are whose."""
        if "" in self._own:
            return None
        kinds = found[:, 0].astype(np.int64)
        return kinds, {name: int((kinds == number).sum()) for number, name in enumerate(self._own)}


def samples(job: Job, before: Sequence[str], after: Sequence[str]) -> list[dict[str, Any]]:
    """Side by side: what was asked, what should be said, and what the model said before and after."""
    if not after:
        return []
    found: dict[int, dict[str, Any]] = {}
    for own in each(job.task, rows_of(job, "test")):
        places = own.places if own.name else range(len(after))
        for place, asked, gold in zip(places, own.task.questions(own.records), own.task.references(own.records), strict=True):
            found[place] = {"task": own.name} if own.name else {}
            found[place] |= {"asked": asked, "reference": gold[0] if gold else None}
            found[place] |= {"before": before[place] if place < len(before) else None, "after": after[place]}
    return [found[place] for place in sorted(found)]
