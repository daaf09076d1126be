"""Texts to token ids, fast, into Arrow, cached by content.

Enters: texts (and their pairs) and a `tokenizers.Tokenizer`. Leaves: `Tokens`: Arrow lists of int32
ids and types, with the number of texts that were cut. The same texts, tokenizer and length give the
same key, so a second run reads the file instead.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from luthier.data.encode import bound, encoded
from luthier.errors import DataError, SpaceError
from luthier.security.artifacts import write_atomic

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa
    from numpy.typing import NDArray
    from tokenizers import Tokenizer

UNGRADED = -100
"""The label of a place whose prediction is not graded."""


class Examples(Sequence[Mapping[str, Any]]):
    """Examples as mappings from column to an int32 array, cut from flat columns when asked for."""

    def __init__(self, columns: dict[str, tuple[NDArray[np.int32], NDArray[np.int64]]]) -> None:
        self._columns = columns
        self._count = len(next(iter(columns.values()))[1]) - 1

    def __len__(self) -> int:
        return self._count

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(self._count))]
        if not -self._count <= index < self._count:
            raise IndexError(index)
        index %= self._count
        return {name: values[offsets[index] : offsets[index + 1]] for name, (values, offsets) in self._columns.items()}


@dataclass(frozen=True)
class Tokens:
    """Token ids of many examples: `table` has lists of int32: `input_ids`, and `token_type_ids`, `labels`, `source_ids`, or
    layers: further marks of a task on each place.

    `owner` is the index of the record that each example belongs to, where records have several.
    """

    table: pa.Table
    truncated: int
    owner: NDArray[np.int64] | None = None

    def __len__(self) -> int:
        return self.table.num_rows

    def lengths(self) -> list[int]:
        """Tokens of each example, its source's too."""
        import pyarrow.compute as pc

        sizes = pc.list_value_length(self.table["input_ids"])
        if "source_ids" in self.table.column_names:
            sizes = pc.add(sizes, pc.list_value_length(self.table["source_ids"]))
        return sizes.to_pylist()

    def share_of(self, token: int) -> float:
        """Share of all tokens that are this one."""
        import pyarrow.compute as pc

        flat = pc.list_flatten(self.table["input_ids"])
        return float(pc.mean(pc.equal(flat, token)).as_py())

    def examples(self) -> Examples:
        """Each example's columns."""
        import numpy as np

        found = {}
        for name in self.table.column_names:
            lists = self.table[name].combine_chunks()
            offsets = lists.offsets.to_numpy().astype(np.int64)
            found[name] = (lists.values.to_numpy(zero_copy_only=False), offsets)
        return Examples(found)

    def after(self, ids: Sequence[int], *, source: bool = False) -> Tokens:
        """The same examples with these ids, ungraded, before each text; with `source` before what an encoder reads.

        An example has several texts where its layer `part` says so; the ids before a text are of its part. Those before a tree,
        whose layer `branch` numbers its branches, are of its stem.
        """
        import numpy as np
        import pyarrow as pa

        marks = [n for n in self.table.column_names if n != "source_ids"]
        fills = dict.fromkeys(marks, [UNGRADED] * len(ids)) | dict.fromkeys(("token_type_ids", "branch"), [0] * len(ids))
        fills |= {"input_ids": list(ids)}
        if source:
            fills = {"source_ids": list(ids)}
        inner = None
        if "part" in fills:
            part, starts, _ = _flat(self.table["part"])
            inner = np.union1d(starts, np.flatnonzero(np.diff(part)) + 1)
        table = self.table
        for place, name in enumerate(table.column_names):
            if name not in fills:
                continue
            flat, starts, ends = _flat(table[name])
            texts = starts if inner is None else inner
            added = np.tile(np.asarray(fills[name], dtype=flat.dtype), len(texts))
            if name == "part":
                added = np.repeat(flat[texts], len(ids))
            longer = np.insert(flat, np.repeat(texts, len(ids)), added)
            before = np.searchsorted(texts, ends)
            offsets = np.concatenate([[0], ends + len(ids) * before])
            column = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(longer, pa.int32()))
            table = table.set_column(place, name, column)
        return Tokens(table, self.truncated, self.owner)

    def marked(self, layer: str) -> NDArray[np.int64]:
        """Numbers of the examples whose first place a layer marks with 1."""
        import numpy as np

        if layer not in self.table.column_names:
            return np.zeros(0, dtype=np.int64)
        lists = self.table[layer].combine_chunks()
        first = lists.values.to_numpy(zero_copy_only=False)[lists.offsets.to_numpy()[:-1]]
        return np.flatnonzero(first == 1)

    def at(self, examples: NDArray[np.int64]) -> Tokens:
        """Some of the examples, each a record of its own."""
        return Tokens(self.table.take(examples), self.truncated)

    def records(self) -> int:
        """How many records the examples belong to."""
        return len(self) if self.owner is None else int(self.owner.max()) + 1


@dataclass(frozen=True)
class Encoded:
    """A part in tokens. `rejected`: record index -> why it cannot be laid out; `counts`: what the label X-ray needs to know."""

    tokens: Tokens
    rejected: Mapping[int, str] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)


def assemble_tokens(examples: Iterable[Mapping[str, Sequence[int]]], *, truncated: int = 0, owner: Sequence[int] | None = None) -> Tokens:
    """Examples that a task has laid out itself, as `Tokens`.

    `owner` gives each example's record; records that own none are taken to be left out, and the others
    are numbered anew.
    """
    import numpy as np
    import pyarrow as pa

    columns: dict[str, list[Any]] = {}
    for example in examples:
        for name, values in example.items():
            columns.setdefault(name, []).append(np.asarray(values, dtype=np.int32))
    if not columns:
        empty = pa.array([], pa.large_list(pa.int32()))
        return Tokens(pa.table({"input_ids": empty, "labels": empty}), truncated, np.zeros(0, dtype=np.int64))
    table = {}
    for name, parts in columns.items():
        offsets = np.concatenate([[0], np.cumsum([len(p) for p in parts])])
        table[name] = pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), pa.array(np.concatenate(parts), pa.int32()))
    return Tokens(pa.table(table), truncated, None if owner is None else np.unique(owner, return_inverse=True)[1])


def _flat(column: pa.ChunkedArray) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.int64]]:
    """The values of all lists end to end, and where each begins and ends."""
    import numpy as np

    lists = column.combine_chunks()
    ends = np.cumsum(lists.value_lengths().to_numpy()).astype(np.int64)
    return lists.flatten().to_numpy(zero_copy_only=False), np.concatenate([[0], ends[:-1]]).astype(np.int64), ends


def tokenize(
    texts: Sequence[str],
    pairs: Sequence[str | None] | None,
    tokenizer: Tokenizer,
    *,
    max_length: int | None,
    cache: Path | None = None,
    special: bool = True,
) -> Tokens:
    """Encode texts, special tokens included where `special`, each cut to `max_length` tokens where one is given.

    Reads and writes `cache`/<key>.arrow where a folder is given. Raises DataError for a text that
    has no tokens at all.
    """
    import pyarrow as pa

    tokenizer.no_padding()
    bound(tokenizer, max_length)
    path = None
    if cache is not None:
        path = cache / f"{_key(texts, pairs, tokenizer, special)}.arrow"
        found = _load(path)
        if found is not None:
            return found
    ids: list[Any] = []
    types: list[Any] = []
    truncated, start = 0, 0
    for part in encoded(texts, pairs, tokenizer, max_length=max_length, special=special):
        empty = part.empty()
        if empty is not None:
            raise DataError(f"text {start + empty} gives no tokens: {texts[start + empty][:60]!r}")
        truncated += part.cut
        ids.append(part.ids)
        types.append(part.types)
        start += len(part.ids)
    lists = pa.list_(pa.int32())
    table = pa.table({"input_ids": pa.chunked_array(ids, lists), "token_type_ids": pa.chunked_array(types, lists)})
    table = table.replace_schema_metadata({"truncated": str(truncated)})
    if path is not None:
        with contextlib.suppress(SpaceError):  # a cache that cannot be written is only slower
            write_atomic(path, lambda p: _store(table, p))
    return Tokens(table, truncated)


def cache_folder() -> Path:
    """Where tokenised data are kept: $LUTHIER_CACHE, else ~/.cache/luthier."""
    return Path(os.environ.get("LUTHIER_CACHE", "~/.cache/luthier")).expanduser() / "tokens"


def _key(texts: Sequence[str], pairs: Sequence[str | None] | None, tokenizer: Tokenizer, special: bool) -> str:
    digest = hashlib.sha256(f"{special}\n{tokenizer.to_str()}".encode())
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
