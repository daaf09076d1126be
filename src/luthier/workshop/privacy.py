"""What privacy and ethics need a model for: names of persons by a tagging run, toxic texts by a classification run; or lists instead.

Enters: the stage's options, a run's folder or a file. Leaves: the stage with its finder of names, a judge of texts. A run is asked for
all texts of a batch at once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.ethics import Judge
from luthier.data.lexicon import words
from luthier.data.rows import decode
from luthier.data.stages.privacy import Privacy
from luthier.errors import DataError, RunError
from luthier.registry import nearest
from luthier.security.pii import Span
from luthier.security.pii.names import Finder, from_list

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.inference.model import Predictor
    from luthier.recipe.stages.privacy import PrivacyOptions

PERSONS = frozenset({"per", "pers", "person", "name"})
"""What data sets call a person."""


def privacy(options: PrivacyOptions, schema: pa.Schema) -> Privacy:
    """The stage. Raises DataError or RunError where `names` is nothing to find names with."""
    return Privacy(options, schema, names=finder(options.names) if options.names is not None else None)


def finder(names: str) -> Finder:
    """A finder of names: from a file with a name a line, or the folder of a tagging run."""
    path = Path(names).expanduser()
    if path.is_dir():
        return from_run(path)
    if not path.is_file():
        raise DataError("is neither a run's folder nor a file of names", where=names, remedy="privacy.names: give one of the two")
    return from_list(_lines(path))


def listed(path: Path) -> re.Pattern[str]:
    """A pattern for the words of a file, one a line. Raises DataError where there are none."""
    if not path.is_file():
        raise DataError("is not there", where=str(path), remedy="give a text file with a word a line")
    return words(_lines(path))


def _lines(path: Path) -> list[str]:
    text, _ = decode(path.read_bytes(), path)
    found = [line.strip() for line in text.splitlines() if line.strip()]
    if not found:
        raise DataError("is empty", where=str(path), remedy="write one word or name a line")
    return found


def judge(folder: Path, label: str) -> Judge:
    """A judge that asks a classification run. Raises RunError where it has no such label."""
    predictor = _predictor(folder)
    known = list(getattr(predictor.task, "labels", ()))
    if predictor.task.name != "classification" or label not in known:
        guess = nearest(label, known)
        remedy = f"did you mean {guess!r}?" if guess else f"its labels: {', '.join(map(str, known[:20])) or 'none'}"
        raise RunError(f"has no label {label!r} that could mean toxic", where=str(folder), remedy=remedy)

    def judged(texts: Sequence[str]) -> list[bool]:
        places = [i for i, fault in enumerate(predictor.refusals(list(texts))) if fault is None]
        answers = predictor.predict([texts[i] for i in places]) if places else []
        toxic = {i for i, a in zip(places, answers, strict=True) if a.get("label") == label or label in a.get("labels", ())}
        return [i in toxic for i in range(len(texts))]

    return judged


def _predictor(folder: Path) -> Predictor:
    from luthier.runs.store import Run
    from luthier.workflow.measure import predictor_of

    return predictor_of(Run(folder))


def from_run(folder: Path) -> Finder:
    """A finder that asks a tagging run. Raises RunError where it tags no persons."""
    predictor = _predictor(folder)
    task = predictor.task
    labels = list(task.figures.names) if task.name == "tagging" and task.kind == "entities" else []
    persons = {label for label in labels if label.casefold() in PERSONS}
    if not persons:
        what = f"its types are {', '.join(labels[:10])}" if labels else f"its task is {task.name}"
        raise RunError(f"finds no names of persons: {what}", where=str(folder), remedy="name a tagging run with a type PER or PERSON")

    def find(texts: Sequence[str]) -> list[list[Span]]:
        places = [i for i, fault in enumerate(predictor.refusals(list(texts))) if fault is None]
        found: list[list[Span]] = [[] for _ in texts]
        for place, answer in zip(places, predictor.predict([texts[i] for i in places]) if places else [], strict=True):
            found[place] = [Span(s["start"], s["end"], "name", float(s["score"])) for s in answer["spans"] if s["label"] in persons]
        return found

    return find
