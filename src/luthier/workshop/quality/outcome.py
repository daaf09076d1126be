"""What is made of findings: a file of them, a table for relabelling, and a copy of the rows without the faults.

Enters: the stream, its subject, the survey, and what is to be done with rows whose suggested label is not theirs. Leaves: a new
folder, written whole or not at all: `findings.jsonl`, `relabel.csv`, and, where rows are dropped or relabelled, a file of rows,
`fates.jsonl` and `report.json`. The inputs stay as they are.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from luthier.data.books import READING, Books, Fate
from luthier.data.clean import described
from luthier.data.stages.stage import FILE, LINE, ROW
from luthier.data.stages.texts import replaced
from luthier.data.writing import Format, Writer
from luthier.security.artifacts import new_folder, write_json, write_jsonl
from luthier.workshop.quality.finding import Finding, Kind

if TYPE_CHECKING:
    import pyarrow as pa

    from luthier.data.stream import Stream
    from luthier.workshop.quality.subject import Subject
    from luthier.workshop.quality.survey import Survey

Mend = Literal["drop", "relabel"]
STAGE = "quality"
COLUMNS = ("row", "file", "line", "text", "label", "suggested", "score", "kind", "reason")


class Correction(NamedTuple):
    """A row that might have another label, and the finding that says so."""

    label: str
    finding: Finding


@dataclass(frozen=True)
class Outcome:
    """Files of rows with how many each holds, and the books; neither where nothing was mended."""

    files: dict[str, int]
    books: Books | None


def corrections(survey: Survey, labels: Sequence[str], *, kinds: Sequence[Kind], at_least: float) -> dict[int, Correction]:
    """Rows, by place, that a finding of these kinds suggests another label for; of several findings the first kind's counts.

    `at_least` is the lowest score of a label error.
    """
    found: dict[int, Correction] = {}
    for kind in kinds:
        for finding in survey.findings[kind]:
            if kind == "label_error" and finding.score < at_least:
                continue
            for row, label in zip(finding.rows, finding.suggested, strict=False):
                if label != labels[row]:
                    found.setdefault(row, Correction(label, finding))
    return found


def write(
    stream: Stream,
    subject: Subject,
    survey: Survey,
    folder: Path,
    *,
    doubted: dict[int, Correction],
    wrong: dict[int, Correction],
    mend: Mend | None,
    format: Format = "parquet",
) -> Outcome:
    """Write the folder: the `doubted` rows for relabelling, the `wrong` ones mended.

    Raises SpaceError where it is there already or the disk is full.
    """
    with new_folder(folder) as new:
        write_jsonl(new / "findings.jsonl", [_told(f, subject) for found in survey.findings.values() for f in found])
        if subject.labels is not None:
            _relabelling(new / "relabel.csv", subject, doubted)
        if mend is None:
            return Outcome({}, None)
        return _mended(stream, subject, wrong, mend, new, format)


def _told(finding: Finding, subject: Subject) -> dict[str, Any]:
    rows = [dict(zip(("file", "line", "row"), subject.origins[r], strict=True)) for r in finding.rows]
    return {"kind": finding.kind, "score": finding.score, "reason": finding.reason, "rows": rows, "suggested": list(finding.suggested)}


def _relabelling(path: Path, subject: Subject, doubted: dict[int, Correction]) -> None:
    """The rows in the order of their kinds and scores, for a person to go through."""
    assert subject.labels is not None
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        for place, (label, finding) in doubted.items():
            name, line, row = subject.origins[place]
            score = f"{finding.score:.4f}"
            writer.writerow((row, name, line, subject.texts[place], subject.labels[place], label, score, finding.kind, finding.reason))


def _mended(stream: Stream, subject: Subject, wrong: dict[int, Correction], mend: Mend, new: Path, format: Format) -> Outcome:
    by_number = {subject.origins[place][2]: correction for place, correction in wrong.items()}
    books = Books()
    with ExitStack() as stack:
        writers = {part: stack.enter_context(Writer(new / f"{part}.{format}", stream.schema, format)) for part in stream.parts}
        fates = stack.enter_context((new / "fates.jsonl").open("w", encoding="utf-8"))
        for batch, quarantined, part in stream.portions():
            met = [Fate(q.file, q.line, "quarantined", READING, q.reason) for q in quarantined]
            kept, turned = _turned(batch, by_number, mend, subject)
            books.read += batch.num_rows + len(quarantined)
            books.kept += kept.num_rows
            books.changed += len(turned) if mend == "relabel" else 0
            for fate in (*met, *turned):
                books.enter(fate)
                fates.write(json.dumps(fate._asdict(), ensure_ascii=False) + "\n")
            if kept.num_rows:
                writers[part].write(kept)
        files = {writer.path.name: writer.rows for writer in writers.values()}
    books.check()
    write_json(new / "report.json", {"rows": books.summary(), "files": files, "mended": mend, "sources": described(stream)})
    return Outcome(files, books)


def _turned(batch: pa.RecordBatch, wrong: dict[int, Correction], mend: Mend, subject: Subject) -> tuple[pa.RecordBatch, list[Fate]]:
    """The batch without the wrong rows, or with other labels for them; and their fates."""
    import numpy as np
    import pyarrow as pa

    numbers = batch.column(ROW).to_pylist()
    places = [i for i, number in enumerate(numbers) if number in wrong]
    if not places or subject.column is None:
        return batch, []
    files, lines = batch.column(FILE), batch.column(LINE)
    outcome: Literal["changed", "dropped"] = "changed" if mend == "relabel" else "dropped"
    cells = batch.column(subject.column).to_pylist()
    fates = []
    for i in places:
        label, finding = wrong[numbers[i]]
        move = f"{cells[i]} → {label}" if mend == "relabel" else f"suspected of being {label}"
        fates.append(Fate(files[i].as_py(), lines[i].as_py(), outcome, STAGE, f"{finding.kind}: {move}; {finding.reason}"))
        cells[i] = subject.cells[label]
    if mend == "relabel":
        return replaced(batch, {subject.column: cells}), fates
    mask = np.ones(batch.num_rows, bool)
    mask[places] = False
    return batch.filter(pa.array(mask)), fates
