"""Rows of a file that are like a query, by the vectors of a model.

Enters: a run or any other model, a file (or texts) and queries. Leaves: for each query the nearest rows. A file is
embedded once: its vectors are kept under a hash of all that they depend on, and found again by a later call.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from luthier.data.prepare import Record
from luthier.data.rows import Row, Rows, read
from luthier.data.tokens import cache_folder
from luthier.errors import DataError, LuthierError, SpaceError
from luthier.inference.model import read_card, restore_task
from luthier.inference.predict import outputs
from luthier.models import host as machine
from luthier.models import load as loading
from luthier.models.load import Loaded
from luthier.models.source import Source, resolve
from luthier.recipe.sections import Data, Model
from luthier.recipe.tasks.embedding import EmbeddingOptions
from luthier.registry import nearest
from luthier.runs.store import Run
from luthier.security.artifacts import write_atomic
from luthier.tasks.embedding import Embedding
from luthier.tasks.language import text_fault

STORES = 16
"""How many files of vectors stay; those that were not used for the longest time go first."""
MAX_TOKENS = 16384
Named = Run | Source | str | Path
"""A run, or any other model."""


@dataclass(frozen=True)
class Match:
    """A row that is like the query; `score` is the cosine of their vectors."""

    score: float
    text: str
    file: str
    line: int
    row: dict[str, Any]


@dataclass(frozen=True)
class Similar:
    """For each query its matches, nearest first; and what was left out, cut or taken from the cache."""

    matches: list[list[Match]]
    notes: list[str] = field(default_factory=list)


class Embedder:
    """A model that gives vectors: one that was trained for it, or any other, whose hidden states are pooled."""

    def __init__(self, model: Named) -> None:
        """Load it. Raises ModelError where it cannot be."""
        source = _source(model)
        self.task, longest = Embedding(EmbeddingOptions(), Data(train=["none"]), kind="pairs"), None
        own = source.local is not None and (source.local / "luthier.json").is_file()
        if own and (card := read_card(Path(source.location)))["task"]["type"] == "embedding":
            self.task, longest = restore_task(card), card["max_length"]
        self.host = machine.set_up()
        self.loaded: Loaded = loading.load(source, Model(name=source.name), head=self.task.head)
        self.loaded.model.to(self.host.device)  # type: ignore[arg-type]
        self.loaded.model.eval()
        self.max_length: int = longest or self.loaded.max_length
        self.truncated = 0

    def vectors(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """One of length 1 for each text, (texts, width)."""
        records = [Record(text, None, None, "", number) for number, text in enumerate(texts)]
        loaded, layout = self.loaded, self.loaded.layout
        encoded = self.task.encode(records, loaded.tokenizer, config=loaded.model.config, max_length=self.max_length)
        self.truncated += encoded.tokens.truncated
        found = outputs(loaded.model, loaded.lay(encoded.tokens), layout, answer=self.task.answer(layout), max_tokens=MAX_TOKENS)
        return (found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)).astype(np.float32)

    def key(self, texts: Sequence[str]) -> str:
        """SHA-256 of what the vectors of some texts depend on: architecture, weights, pooling, length, tokens."""
        digest = self._identity.copy()
        for text in texts:
            data = text.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
        return digest.hexdigest()[:40]

    @cached_property
    def _identity(self) -> Any:
        """The digest of all but the texts: the weights are read once."""
        model, tokenizer = self.loaded.model, self.loaded.tokenizer
        config = {name: value for name, value in model.config.to_dict().items() if not name.startswith("_")}  # type: ignore[operator]
        pieces = json.loads(tokenizer.backend_tokenizer.to_str())  # type: ignore[attr-defined]
        pieces |= {"truncation": None, "padding": None}  # as the last call left them
        told = [self.task.pooling, self.max_length, str(self.host.device), config, pieces]
        digest = hashlib.sha256(json.dumps(told, sort_keys=True, default=str).encode())
        for name, tensor in sorted(model.state_dict().items()):
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
        return digest


def similar(
    model: Named,
    rows: str | Path | Sequence[str],
    queries: str | Sequence[str],
    *,
    k: int = 5,
    column: str | None = None,
) -> Similar:
    """The `k` rows of a file (or texts) that are nearest to each query.

    `column` is the one that is searched; where absent that of positives or texts in the run's training, else `text`,
    else the only one. Raises DataError where there is nothing to search or to ask, or the column is not there.
    """
    asked = [queries] if isinstance(queries, str) else list(queries)
    for query in asked:
        if fault := text_fault(query):
            raise DataError(f"the query is an {fault}" if fault.startswith("empty") else f"the query: {fault}", remedy="ask for some words")
    held, notes = _held(model, rows, column)
    embedder = Embedder(model)
    texts = [text for text, _ in held]
    vectors, found = _kept(embedder, texts)
    notes += embedder.loaded.notes
    notes += ["the vectors of these texts were kept by an earlier call"] if found else []
    if embedder.truncated:
        notes.append(f"{embedder.truncated} of {len(texts)} texts are cut to {embedder.max_length} tokens")
    scores = embedder.vectors(asked) @ vectors.T
    best = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    matches = [
        [Match(float(line[i]), held[i][0], held[i][1].file, held[i][1].line, held[i][1].values) for i in places]
        for line, places in zip(scores, best, strict=True)
    ]
    return Similar(matches, notes)


def _source(model: Named) -> Source:
    if isinstance(model, Run):
        return Source(str(model.model), str(model.model), None)
    return model if isinstance(model, Source) else resolve(Model(name=str(model)))


def _held(model: Named, rows: str | Path | Sequence[str], column: str | None) -> tuple[list[tuple[str, Row]], list[str]]:
    """The texts that are searched with their rows, and what was left out."""
    if not isinstance(rows, (str, Path)):
        found, column = Rows([Row({"text": text}, "", number) for number, text in enumerate(rows, 1)]), "text"
    else:
        found = read(Path(rows))
        column = _column(found.columns, model, column, where=str(rows))
    held, faults = [], [q.reason for q in found.quarantined]
    for row in found.rows:
        fault = text_fault(row.values.get(column))
        if fault:
            faults.append(fault)
        else:
            held.append((str(row.values[column]), row))
    if not held:
        raise DataError(f"no row has a text in {column!r}", where=str(rows), remedy="name another column with --column")
    return held, [*found.notes, *([f"{len(faults)} rows left out, the first: {faults[0]}"] if faults else [])]


def _column(columns: Sequence[str], model: Any, wanted: str | None, *, where: str) -> str:
    listed = ", ".join(map(repr, columns[:20]))
    if wanted is not None:
        if wanted not in columns:
            guess = nearest(wanted, columns)
            remedy = (f"did you mean {guess!r}? " if guess else "") + f"the columns are: {listed}"
            raise DataError(f"no column {wanted!r}", where=where, remedy=remedy)
        return wanted
    known: list[Any] = ["text"]
    with contextlib.suppress(LuthierError):
        card = read_card(Path(_source(model).location))
        known = [card["text_pair"], card["text"], "text"]
    found = next((c for c in known if c in columns), columns[0] if len(columns) == 1 else None)
    if found is None:
        raise DataError("which column is to be searched?", where=where, remedy=f"name it with --column; there are: {listed}")
    return str(found)


def _kept(embedder: Embedder, texts: Sequence[str]) -> tuple[NDArray[np.float32], bool]:
    """The vectors of a file, and whether an earlier call had computed them."""
    folder = cache_folder().parent / "vectors"
    path = folder / f"{embedder.key(texts)}.safetensors"
    with contextlib.suppress(OSError, SafetensorError, KeyError):
        vectors = load_file(path)["vectors"]
        if len(vectors) == len(texts):
            path.touch()
            return vectors, True
    vectors = embedder.vectors(texts)
    with contextlib.suppress(SpaceError):  # a cache that cannot be written is only slower
        for old in sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime, reverse=True)[STORES - 1 :]:
            old.unlink(missing_ok=True)
        write_atomic(path, lambda p: save_file({"vectors": np.ascontiguousarray(vectors)}, p))
    return vectors, False
