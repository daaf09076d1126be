"""Texts to token ids, fast, into Arrow, cached by content.

Enters: texts (and their pairs) and a `tokenizers.Tokenizer`. Leaves: `Tokens`: Arrow lists of int32
ids and types, with the number of texts that were cut. The same texts, tokenizer and length give the
same key, so a second run reads the file instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.errors import DataError, SpaceError
from luthier.security.artifacts import write_atomic

if TYPE_CHECKING:
    import pyarrow as pa
    from tokenizers import Tokenizer

CHUNK = 8192


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts: `table` has `input_ids` and `token_type_ids`, lists of int32."""

    table: pa.Table
    truncated: int

    def __len__(self) -> int:
        return self.table.num_rows

    def lengths(self) -> list[int]:
        """Tokens of each text."""
        import pyarrow.compute as pc

        return pc.list_value_length(self.table["input_ids"]).to_pylist()

    def share_of(self, token: int) -> float:
        """Share of all tokens that are this one."""
        import pyarrow.compute as pc

        flat = pc.list_flatten(self.table["input_ids"])
        return float(pc.mean(pc.equal(flat, token)).as_py())

    def examples(self) -> list[dict[str, Any]]:
        """Each text's `input_ids` and `token_type_ids` as lists."""
        return self.table.to_pylist()


def tokenize(
    texts: Sequence[str],
    pairs: Sequence[str | None] | None,
    tokenizer: Tokenizer,
    *,
    max_length: int,
    cache: Path | None = None,
) -> Tokens:
    """Encode texts, special tokens included, each cut to `max_length` tokens.

    Reads and writes `cache`/<key>.arrow where a folder is given. Raises DataError for a text that
    has no tokens at all.
    """
    import pyarrow as pa

    tokenizer.no_padding()
    tokenizer.enable_truncation(max_length)
    path = None
    if cache is not None:
        path = cache / f"{_key(texts, pairs, tokenizer)}.arrow"
        found = _load(path)
        if found is not None:
            return found
    ids: list[Any] = []
    types: list[Any] = []
    truncated = 0
    for start in range(0, len(texts), CHUNK):
        chunk: list[Any] = list(texts[start : start + CHUNK])
        if pairs is not None:
            chunk = [(a, b) if b is not None else a for a, b in zip(chunk, pairs[start : start + CHUNK], strict=True)]
        encodings = tokenizer.encode_batch_fast(chunk)
        for offset, encoding in enumerate(encodings):
            if not encoding.ids:
                raise DataError(f"text {start + offset} gives no tokens: {texts[start + offset][:60]!r}")
        truncated += sum(bool(e.overflowing) for e in encodings)
        ids.append(pa.array([e.ids for e in encodings], pa.list_(pa.int32())))
        types.append(pa.array([e.type_ids for e in encodings], pa.list_(pa.int32())))
    table = pa.table({"input_ids": pa.chunked_array(ids), "token_type_ids": pa.chunked_array(types)})
    table = table.replace_schema_metadata({"truncated": str(truncated)})
    if path is not None:
        with contextlib.suppress(SpaceError):  # a cache that cannot be written is only slower
            write_atomic(path, lambda p: _store(table, p))
    return Tokens(table, truncated)


def cache_folder() -> Path:
    """Where tokenised data are kept: $LUTHIER_CACHE, else ~/.cache/luthier."""
    return Path(os.environ.get("LUTHIER_CACHE", "~/.cache/luthier")).expanduser() / "tokens"


def _key(texts: Sequence[str], pairs: Sequence[str | None] | None, tokenizer: Tokenizer) -> str:
    digest = hashlib.sha256(tokenizer.to_str().encode())
    for index, text in enumerate(texts):
        pair = pairs[index] if pairs is not None else None
        for part in (text, "" if pair is None else "\x1e" + pair):
            data = part.encode("utf-8", "surrogatepass")
            digest.update(len(data).to_bytes(8, "little") + data)
    return digest.hexdigest()[:40]


def _store(table: pa.Table, path: Path) -> None:
    import pyarrow as pa

    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def _load(path: Path) -> Tokens | None:
    """The cached table; None where there is none or it cannot be read."""
    import pyarrow as pa

    try:
        with pa.memory_map(str(path)) as source:
            table = pa.ipc.open_file(source).read_all()
        return Tokens(table, int((table.schema.metadata or {})[b"truncated"]))
    except (OSError, pa.ArrowException, KeyError, ValueError):
        return None
