"""What a frozen trunk gives for every example, kept on disk and mapped into memory.

Enters: a `Trunk` and the examples of a part. Leaves: a `Kept`, which lays beside a batch the rows that belong to
it. They are computed once, longest examples first, into a safetensors file whose name is a hash of all that they
depend on; a later run with the same texts and weights finds the file. A damaged one is computed anew.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from luthier.data.tokens import Tokens
from luthier.models.batch import Batch, collate, within_budget
from luthier.models.trunk import Trunk
from luthier.security.artifacts import need_space, write_atomic

Precision = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
NAMES = {"fp32": "F32", "bf16": "BF16"}
STORES = 8
"""How many files stay in the folder; those that were not used for the longest time go first."""
HEADER = 512
"""Bytes before the rows."""


@dataclass(frozen=True)
class Kept:
    """The rows of all examples, (tokens or examples, width); those of example i are `offsets[i]` to `offsets[i + 1]`."""

    trunk: Trunk
    rows: Tensor
    offsets: NDArray[np.int64]
    found: bool
    """Whether an earlier run had computed them."""

    def above(self, batch: Batch) -> Batch:
        """The batch with its rows beside it, so that the model starts above them."""
        if self.trunk.pooled:
            return self.trunk.above(batch, self.rows[list(batch.rows)])
        return self.trunk.above(batch, torch.cat([self.rows[self.offsets[row] : self.offsets[row + 1]] for row in batch.rows]))


def offsets_of(trunk: Trunk, tokens: Tokens) -> NDArray[np.int64]:
    """Where the rows of each example begin; one row an example where pooled, else one a token."""
    lengths = np.ones(len(tokens)) if trunk.pooled else np.asarray(tokens.lengths())
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def bytes_of(trunk: Trunk, tokens: Tokens, precision: Precision) -> int:
    """What keeping a part takes on disk."""
    return HEADER + int(offsets_of(trunk, tokens)[-1]) * trunk.width * DTYPES[precision].itemsize


def keep(trunk: Trunk, tokens: Tokens, *, folder: Path, precision: Precision, max_tokens: int) -> Kept:
    """Find or compute what `trunk` gives for the examples.

    `max_tokens` bounds a forward pass. Raises SpaceError where the disk has not enough room.
    """
    path, offsets = folder / f"{_key(trunk, tokens, precision, max_tokens)}.safetensors", offsets_of(trunk, tokens)
    shape = (int(offsets[-1]), trunk.width)
    found = _whole(path, shape, precision)
    if found:
        path.touch()
    else:
        path.unlink(missing_ok=True)
        _leave_room(folder)
        need_space(folder, bytes_of(trunk, tokens, precision), purpose="keeping what the frozen layers give")
        write_atomic(path, lambda p: _compute(p, trunk, tokens, offsets, precision, max_tokens))
    return Kept(trunk, _mapped(path, shape, precision, mode="c"), offsets, found)


def _key(trunk: Trunk, tokens: Tokens, precision: Precision, max_tokens: int) -> str:
    """SHA-256 of all that the rows depend on, to the last bit: weights, texts, and how they are computed."""
    products = getattr(torch.backends.mkldnn, "matmul", None)
    how = [
        precision, str(trunk.dtype), str(next(trunk.model.parameters()).device), max_tokens, torch.get_num_threads(),
        torch.__version__, getattr(products, "fp32_precision", None),
    ]  # fmt: skip
    digest = hashlib.sha256(f"{trunk.digest()}\n{json.dumps(how)}".encode())
    for name in ("input_ids", "token_type_ids"):
        if name in tokens.table.column_names:
            lists = tokens.table[name].combine_chunks()
            for part in (lists.value_lengths(), lists.flatten()):
                digest.update(np.ascontiguousarray(part.to_numpy(zero_copy_only=False)).data)
    return digest.hexdigest()[:40]


def _compute(path: Path, trunk: Trunk, tokens: Tokens, offsets: NDArray[np.int64], precision: Precision, max_tokens: int) -> None:
    """Write the file: every example once, and the hash of all in front."""
    shape = (int(offsets[-1]), trunk.width)
    path.write_bytes(_header(shape, precision, "0" * 64))
    with path.open("r+b") as file:
        file.truncate(HEADER + shape[0] * shape[1] * DTYPES[precision].itemsize)
    rows = _mapped(path, shape, precision, mode="r+")
    examples: Any = tokens.examples()
    device = next(trunk.model.parameters()).device
    training = trunk.model.training
    trunk.model.eval()
    try:
        for part in within_budget(range(len(examples)), tokens.lengths(), max_tokens, longest_first=True):
            batch = collate([examples[r] for r in part], part, types=trunk.layout.token_types)
            states = trunk.states(batch.to(device)).to("cpu", rows.dtype)
            sizes = [1] * len(part) if trunk.pooled else batch.segments.lengths.tolist()
            for row, piece in zip(batch.rows, states.split(sizes), strict=True):
                rows[offsets[row] : offsets[row + 1]] = piece
    finally:
        trunk.model.train(training)
    digest = hashlib.sha256(_bytes(rows)).hexdigest()
    with path.open("r+b") as file:
        file.write(_header(shape, precision, digest))


def _header(shape: tuple[int, int], precision: Precision, digest: str) -> bytes:
    """The front of a safetensors file of one tensor."""
    size = shape[0] * shape[1] * DTYPES[precision].itemsize
    content = {"__metadata__": {"sha256": digest}, "states": {"dtype": NAMES[precision], "shape": shape, "data_offsets": [0, size]}}
    text = json.dumps(content).encode().ljust(HEADER - 8)
    return len(text).to_bytes(8, "little") + text


def _mapped(path: Path, shape: tuple[int, int], precision: Precision, *, mode: Literal["r+", "c"]) -> Tensor:
    """The rows as a tensor on the file."""
    size = shape[0] * shape[1] * DTYPES[precision].itemsize
    flat = np.memmap(path, dtype=np.uint8, mode=mode, offset=HEADER, shape=(size,))
    return torch.from_numpy(flat).view(DTYPES[precision]).view(shape)


def _bytes(rows: Tensor) -> memoryview:
    return rows.reshape(-1).view(torch.uint8).numpy().data


def _whole(path: Path, shape: tuple[int, int], precision: Precision) -> bool:
    """Whether the file is there, of the right size, and what was written."""
    try:
        front = path.open("rb").read(HEADER)
        content: Mapping[str, Any] = json.loads(front[8:])
        digest = content["__metadata__"]["sha256"]
        size = HEADER + shape[0] * shape[1] * DTYPES[precision].itemsize
        if front != _header(shape, precision, digest) or path.stat().st_size != size:
            return False
        return bool(hashlib.sha256(_bytes(_mapped(path, shape, precision, mode="c"))).hexdigest() == digest)
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _leave_room(folder: Path) -> None:
    """Drop the files that were not used for the longest time, so that one more makes `STORES`."""
    files = sorted(folder.glob("*.safetensors"), key=lambda p: p.stat().st_mtime, reverse=True)
    for path in files[STORES - 1 :]:
        path.unlink(missing_ok=True)
