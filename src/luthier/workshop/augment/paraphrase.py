"""Texts said in other words by a model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from string import Formatter
from typing import TYPE_CHECKING

from luthier.data.augment.augmenter import Ask, Draft, Source
from luthier.errors import DataError
from luthier.workshop.asking.engines import Elsewhere, Here, source_of
from luthier.workshop.asking.request import Engine, Request
from luthier.workshop.augment.written import ask, draft

if TYPE_CHECKING:
    from luthier.recipe.augment.paraphrase import ParaphraseOptions


class Paraphrase:
    """Asks a run or an endpoint."""

    def __init__(self, options: ParaphraseOptions, pool: Sequence[Source], *, folder: Path, where: str) -> None:
        """Raises DataError for a column that no row has; EndpointError for a model or a token that is not there."""
        self.options, self.pool = options, pool
        known = {"text", *(name for source in pool for name in source.row.values)}
        self._empty = {name: "" for _, name, _, _ in Formatter().parse(options.instruction) if name is not None}
        if unknown := next((name for name in self._empty if name not in known), None):
            remedy = f"the columns are: {', '.join(map(repr, sorted(known)[:20]))}"
            raise DataError(f"no column {unknown!r}", where=f"{where}.instruction", remedy=remedy)
        self.engine: Engine
        if options.endpoint is not None:
            self.engine = Elsewhere(options.endpoint, where=f"{where}.endpoint")
        else:
            self.engine = Here(source_of(str(options.model), folder=folder, where=f"{where}.model"))

    def __call__(self, asked: Sequence[Ask]) -> list[Draft]:
        o, texts = self.options, [self.pool[a.place].text for a in asked]
        requests = [
            Request(
                o.instruction.format_map({**self._empty, **self.pool[a.place].row.values, "text": text}),
                o.temperature,
                o.max_tokens,
                a.seed,
            )
            for a, text in zip(asked, texts, strict=True)
        ]
        return [draft(answer, text) for answer, text in zip(ask(self.engine, requests), texts, strict=True)]
