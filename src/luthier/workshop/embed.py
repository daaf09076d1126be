"""The vectors of texts: the one place where the workshop gets them, and where each is computed once.

Enters: texts and a model's name. Leaves: a vector of length 1 for each, in the order of the texts. What was computed is kept in one
SQLite file a model, under a hash of the text; the file's name is a hash of all else that a vector depends on (weights, tokens,
pooling, length, device). A text that stands in another file, in another order or beside other rows is not computed again, and
a run that was killed goes on behind the last batch.
"""

from __future__ import annotations

import contextlib
import hashlib
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from luthier.data.tokens import cache_folder

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from luthier.workflow.similar import Embedder, Named

MODEL = "minilm"
STORES = 8
"""How many models keep their vectors; those that were not used for the longest time go first."""
MOST_BYTES = 4 << 30
"""A file of vectors that is larger is begun anew."""
STEP = 1024
"""Texts that are computed and written at a time."""


@dataclass(frozen=True)
class Embedded:
    """Vectors of length 1, (texts, width); how many different texts were computed rather than found; what is to be told."""

    vectors: NDArray[np.float32]
    computed: int
    notes: list[str] = field(default_factory=list)


def embed(texts: Sequence[str], *, model: Named | Embedder = MODEL) -> Embedded:
    """The vectors of some texts by a model, as `embedder_of` has it, or by one that is loaded already.

    Raises ModelError where the model cannot be had.
    """
    import numpy as np

    from luthier.workflow.similar import Embedder

    embedder = model if isinstance(model, Embedder) else embedder_of(model)
    cut = embedder.truncated
    keys = [_key(text) for text in texts]
    first = dict(zip(keys, texts, strict=True))
    with _opened(cache_folder().parent / "vectors" / f"texts-{embedder.key([])}.db") as store:
        known = store.known(list(first))
        missing = sorted((k for k in first if k not in known), key=lambda k: len(first[k]), reverse=True)
        for start in range(0, len(missing), STEP):
            batch = missing[start : start + STEP]
            fresh = dict(zip(batch, embedder.vectors([first[k] for k in batch]), strict=True))
            known |= fresh
            store.add(fresh)
    notes = list(embedder.loaded.notes)
    if embedder.truncated > cut:
        notes.append(f"{embedder.truncated - cut} texts are cut to {embedder.max_length} tokens")
    vectors = np.stack([known[k] for k in keys]) if keys else np.zeros((0, 0), np.float32)
    return Embedded(vectors, len(missing), notes)


def embedder_of(model: Named) -> Embedder:
    """The model of a run (its folder, or its name under runs/), a folder, an alias or a hub id, loaded. Raises ModelError without one."""
    from luthier.models.source import NAMES, Source, is_model
    from luthier.workflow.similar import Embedder

    if isinstance(model, str | Path) and str(model) not in NAMES:
        for run in (Path(model).expanduser(), Path("runs") / model):
            if is_model(run / "model"):
                return Embedder(Source(str(run / "model"), str(run / "model"), None))
    return Embedder(model)


class Gathered:
    """Vectors of texts that come a batch at a time; the model is loaded with the first of them."""

    def __init__(self, model: Named) -> None:
        self._model = model
        self._embedder: Embedder | None = None
        self._parts: list[NDArray[np.float32]] = []

    def add(self, texts: Sequence[str]) -> None:
        """Take in some more texts. Raises ModelError where the model cannot be had."""
        self._embedder = self._embedder or embedder_of(self._model)
        vectors = embed(texts, model=self._embedder).vectors.copy()
        vectors[[i for i, text in enumerate(texts) if not text.strip()]] = 0
        self._parts.append(vectors)

    def settled(self) -> NDArray[np.float32]:
        """All vectors, (texts, width), 0 for a blank text; the model is let go."""
        import numpy as np

        self._embedder, parts = None, [p for p in self._parts if len(p)]
        return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _key(text: str) -> bytes:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:16]


class _Store:
    """Vectors by the hash of their text. Without a file it knows nothing and keeps nothing: it is only slower."""

    def __init__(self, base: sqlite3.Connection | None) -> None:
        self._base = base

    def known(self, keys: Sequence[bytes]) -> dict[bytes, NDArray[np.float32]]:
        import numpy as np

        found: dict[bytes, NDArray[np.float32]] = {}
        with contextlib.suppress(sqlite3.Error):
            for start in range(0, len(keys) if self._base else 0, 500):
                some = keys[start : start + 500]
                marks = ",".join("?" * len(some))
                rows = self._base.execute(f"SELECT key, vector FROM vectors WHERE key IN ({marks})", some)  # type: ignore[union-attr]  # noqa: S608
                found |= {key: np.frombuffer(vector, np.float32) for key, vector in rows}
        return found

    def add(self, vectors: dict[bytes, NDArray[np.float32]]) -> None:
        with contextlib.suppress(sqlite3.Error):
            if self._base is not None:
                with self._base:
                    rows = [(k, v.tobytes()) for k, v in vectors.items()]
                    self._base.executemany("INSERT OR REPLACE INTO vectors VALUES (?, ?)", rows)


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[_Store]:
    base = None
    with contextlib.suppress(OSError, sqlite3.Error):
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists() and path.stat().st_size > MOST_BYTES:
            path.unlink()
        for old in sorted(path.parent.glob("texts-*.db"), key=lambda p: p.stat().st_mtime, reverse=True)[STORES:]:
            old.unlink(missing_ok=True)
        base = _ready(path)
        path.touch()
    try:
        yield _Store(base)
    finally:
        if base is not None:
            base.close()


def _ready(path: Path) -> sqlite3.Connection:
    """The file with its table; a damaged one is begun anew."""
    for _ in range(2):
        base = sqlite3.connect(path, timeout=30)
        try:
            base.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL) WITHOUT ROWID")
            return base
        except sqlite3.OperationalError:  # locked, or not to be written
            base.close()
            raise
        except sqlite3.DatabaseError:
            base.close()
            path.unlink()
    raise sqlite3.DatabaseError("cannot be begun anew")
