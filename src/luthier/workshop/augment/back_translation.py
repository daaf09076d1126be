"""Texts translated into another language and back (Sennrich, Haddow and Birch, ACL 2016)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.augment.augmenter import Ask, Draft, Source
from luthier.errors import RunError
from luthier.models.source import Source as Files
from luthier.workshop.asking.engines import Here, source_of
from luthier.workshop.asking.request import Request
from luthier.workshop.augment.written import ask, draft

if TYPE_CHECKING:
    from luthier.recipe.augment.back_translation import BackTranslationOptions


class BackTranslation:
    """The way there is the likeliest translation; the way back is drawn, so that copies differ."""

    def __init__(self, options: BackTranslationOptions, pool: Sequence[Source], *, folder: Path, where: str) -> None:
        """Raises RunError for runs of another task, EndpointError for ones that are not there."""
        self.options, self.pool = options, pool
        self.there = Here(_translator(options.there, folder, f"{where}.there"))
        self.back = Here(_translator(options.back, folder, f"{where}.back"))

    def __call__(self, asked: Sequence[Ask]) -> list[Draft]:
        o, texts = self.options, [self.pool[a.place].text for a in asked]
        foreign = ask(self.there, [Request(t, 0.0, o.max_tokens, 0) for t in texts])
        gone = {i for i, answer in enumerate(foreign) if not (answer.text or "").strip()}
        requests = [
            Request(str(answer.text), o.temperature, o.max_tokens, a.seed)
            for i, (answer, a) in enumerate(zip(foreign, asked, strict=True))
            if i not in gone
        ]
        answers = iter(ask(self.back, requests))
        return [Draft(None, why="no translation") if i in gone else draft(next(answers), text) for i, text in enumerate(texts)]


def _translator(name: str, folder: Path, where: str) -> Files:
    """The files of a run of the task text2text."""
    from luthier.inference.model import read_card

    files = source_of(name, folder=folder, where=where)
    path = files.local
    learned = read_card(path)["task"]["type"] if path is not None and (path / "luthier.json").is_file() else None
    if learned != "text2text":
        told = f"learned the task {learned}" if learned else "is no run"
        raise RunError(f"{name} {told}", where=where, remedy="name a run of the task text2text that translates")
    return files
