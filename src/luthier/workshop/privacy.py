"""What the privacy stage needs a model for: names of persons, by a tagging run; and a way without one, a list of names.

Enters: the stage's options. Leaves: the stage, with its finder of names. The run is asked for all texts of a batch at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.rows import decode
from luthier.data.stages.privacy import Privacy
from luthier.errors import DataError, RunError
from luthier.security.pii import Span
from luthier.security.pii.names import Finder, from_list

if TYPE_CHECKING:
    import pyarrow as pa

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
    text, _ = decode(path.read_bytes(), path)
    listed = [line.strip() for line in text.splitlines() if line.strip()]
    if not listed:
        raise DataError("holds no names", where=names, remedy="write one a line")
    return from_list(listed)


def from_run(folder: Path) -> Finder:
    """A finder that asks a tagging run. Raises RunError where it tags no persons."""
    from luthier.runs.store import Run
    from luthier.workflow.measure import predictor_of

    predictor = predictor_of(Run(folder))
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
