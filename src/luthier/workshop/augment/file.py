"""A training file, grown: what `luthier data augment` does.

Enters: a file, ways to vary its rows, and files whose texts must not be made. Leaves: a new folder with the rows that were read
and the made ones after them (rows.jsonl), what each was made from (made.jsonl) and the figures (report.json).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from luthier.data.augment.augmenter import Source
from luthier.data.augment.grow import Grown, grow
from luthier.data.prepare import need_columns
from luthier.data.rows import Row, cell_text, read
from luthier.data.split import content_key
from luthier.errors import DataError
from luthier.recipe.augment.options import AugmentOptions
from luthier.security.artifacts import new_folder, sha256, write_json, write_jsonl
from luthier.workflow.grown import classifier

UNREAD = "cannot be read"
"""Why a row is not varied that no file of rows can hold either."""


class File(NamedTuple):
    """What was made of a file: rows read = varied + left out."""

    read: int
    left_out: dict[str, int]
    grown: Grown


def augment(
    file: Path, ways: Sequence[AugmentOptions], *, out: Path, text: str, label: str | None, never: Sequence[Path], seed: int
) -> File:
    """Write the grown file into the new folder `out`. Texts of the files `never` are not made, and their rows not varied.

    Raises DataError for columns that are not there and files that cannot be read, SpaceError for a folder that is there.
    """
    rows = read(file)
    need_columns(rows, {text: "--text"} | ({label: "--label"} if label is not None else {}))
    held = {content_key(v) for path in never for v in _texts(path, text)}
    left_out: dict[str, int] = {}
    pool = list[Source]()
    for row in rows.rows:
        value = row.values.get(text)
        why = _fault(row, text) or ("stands in a file of --never" if content_key(value) in held else None)
        if why is None:
            pool.append(Source(str(value), cell_text(row.values.get(label)) if label is not None else "", row))
        else:
            left_out[why] = left_out.get(why, 0) + 1
    if rows.quarantined:
        left_out[UNREAD] = len(rows.quarantined)
    if not pool:
        why = "; ".join(f"{count} of {len(rows.rows)} rows: {reason}" for reason, count in left_out.items() if reason != UNREAD)
        raise DataError(f"there is no row to vary: {why or UNREAD}", where=str(file), remedy="name the column of texts with --text")
    if label is None:
        needs = next((w.type for w in ways if w.type == "mixing" or w.classes or w.check), None)
        if needs is not None:
            raise DataError(f"{needs} needs the rows' labels", where="--label", remedy="name their column with --label")
    with new_folder(out) as folder:
        found = grow(
            pool,
            ways,
            text=text,
            held=held,
            fault=lambda row: _fault(row, text),
            check=classifier(Path.cwd()),
            seed=seed,
            folder=Path.cwd(),
            place=lambda number: f"--way {number + 1}",
        )
        write_jsonl(folder / "rows.jsonl", [*(r.values for r in rows.rows), *(m.row.values for m in found.made)])
        write_jsonl(folder / "made.jsonl", [m.lineage() for m in found.made])
        result = File(len(rows.rows) + len(rows.quarantined), left_out, found)
        write_json(folder / "report.json", report(result, file=file, seed=seed, ways=ways))
    return result


def report(result: File, *, file: Path, seed: int, ways: Sequence[AugmentOptions]) -> dict[str, Any]:
    """The figures, and what is needed to make the same again."""
    made = len(result.grown.made)
    written = result.read - result.left_out.get(UNREAD, 0) + made
    return {
        "file": str(file), "sha256": sha256(file), "seed": seed, "read": result.read, "not_varied": result.left_out, "made": made,
        "share": round(made / max(written, 1), 4), "digest": result.grown.digest(), "ways": [w.figures() for w in result.grown.ways],
        "options": [w.model_dump(mode="json") for w in ways],
    }  # fmt: skip


def _fault(row: Row, text: str) -> str | None:
    value = row.values.get(text)
    return None if isinstance(value, str) and value.strip() else "has no text"


def _texts(path: Path, text: str) -> list[str]:
    rows = read(path)
    need_columns(rows, {text: "--text"})
    return [str(r.values.get(text)) for r in rows.rows]
