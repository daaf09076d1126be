"""How long rows are in a model's tokens, and how many are longer than it reads. Torch-free: only its tokenizer is loaded.

Enters: a model's name and, of each row, the texts it reads. Leaves: `Tokens`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from luthier.errors import ModelError
from luthier.models.source import Source, base_of, is_adapter, resolve
from luthier.recipe.sections import Model

UNBOUNDED = 1 << 30
"""A length that tokenizers give where they know none is larger."""
CHUNK = 1000


@dataclass(frozen=True)
class Tokens:
    """Of each row its tokens, special ones included; `reads` is the most that the model takes, None where it says nothing."""

    model: str
    reads: int | None
    counts: list[int]

    @property
    def longer(self) -> int:
        """Rows that the model does not read whole."""
        return 0 if self.reads is None else sum(n > self.reads for n in self.counts)


def tokens_of(rows: Sequence[Sequence[str]], *, model: str, paired: bool = False) -> Tokens:
    """Count the tokens of each row's texts, read one after the other, or `paired` as two with what stands between them.

    Raises ModelError for a model that cannot be found or has no fast tokenizer.
    """
    from tokenizers import Tokenizer

    source = resolve(Model(name=model))
    folder = Path(source.location)
    if folder.is_dir() and is_adapter(folder):
        source = base_of(folder)
    tokenizer = Tokenizer.from_file(str(_file(source, "tokenizer.json", needed=True)))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    counts: list[int] = []
    for start in range(0, len(rows), CHUNK):
        part: list[Any] = [(r[0], r[1]) if paired and len(r) == 2 else "\n".join(r) for r in rows[start : start + CHUNK]]
        counts += [len(found.ids) for found in tokenizer.encode_batch(part)]
    return Tokens(model, _reads(source), counts)


def _reads(source: Source) -> int | None:
    """The smaller of the positions a model has and the length that its tokenizer names."""
    config, told = _json(source, "config.json"), _json(source, "tokenizer_config.json")
    inner = config.get("text_config")
    places = config.get("max_position_embeddings") or config.get("n_positions")
    places = places or (inner.get("max_position_embeddings") if isinstance(inner, dict) else None)
    lengths = [n for n in (places, told.get("model_max_length")) if isinstance(n, (int, float)) and 0 < n < UNBOUNDED]
    return int(min(lengths)) if lengths else None


def _json(source: Source, name: str) -> dict[str, Any]:
    path = _file(source, name, needed=False)
    try:
        found = json.loads(path.read_text(encoding="utf-8")) if path is not None else {}
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _file(source: Source, name: str, *, needed: bool) -> Path | None:
    """A file of a model: in its folder, or fetched from the hub."""
    if source.local is not None:
        path = source.local / name
        if path.is_file():
            return path
    else:
        from huggingface_hub import hf_hub_download

        try:
            return Path(hf_hub_download(source.location, name, revision=source.revision))
        except Exception as error:  # the hub client raises many kinds; each means: not to be had
            if needed:
                remedy = "check the name, or give a folder that holds the model"
                raise ModelError(f"its tokenizer cannot be had ({type(error).__name__})", where=source.location, remedy=remedy) from None
    if needed:
        raise ModelError("has no fast tokenizer", where=source.location, remedy="choose a model with a tokenizer.json")
    return None


def histogram(counts: Sequence[int], *, bins: int = 24) -> list[tuple[int, int, int]]:
    """(from, to, rows) in bars of equal width over whole numbers; the longest hundredth is in the last one."""
    if not counts:
        return []
    top = int(np.percentile(counts, 99)) + 1
    width = max(1, -(-top // bins))
    edges = list(range(0, top + width, width))
    found = np.histogram(np.minimum(counts, edges[-1] - 1), edges)[0].tolist()
    return [(a, b, n) for a, b, n in zip(edges, edges[1:], found, strict=False)]
