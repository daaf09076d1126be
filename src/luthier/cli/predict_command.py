"""`luthier predict RUN [TEXT]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from luthier.cli.options import run_argument, runs_option, the_run
from luthier.data.rows import Quarantined, decode


@click.command(name="predict")
@run_argument
@click.argument("texts", nargs=-1)
@click.option("--file", "file", type=click.Path(path_type=Path), help="A data file (CSV, JSONL, ...) with the columns of training.")
@click.option("--output", type=click.Path(path_type=Path), help="Write JSONL here, or CoNLL-U where it ends so.")
@runs_option
def command(run: str, texts: tuple[str, ...], file: Path | None, output: Path | None, root: Path) -> None:
    """Predict with RUN for TEXTS, for --file, or for the lines of standard input; JSON lines come out.

    A line of standard input is a text, or a JSON object with the columns of training.
    """
    if texts and file:
        raise click.UsageError("give texts or --file, not both")
    found = the_run(run, root)
    lines = [] if texts or file else _standard_input()
    if not (texts or file or lines):
        raise click.UsageError("nothing to predict: give texts, --file, or lines on standard input")
    from luthier.workflow.measure import predictor_of, read_rows

    predictor = predictor_of(found)
    trees = output is not None and output.suffix == ".conllu"
    if trees and not hasattr(predictor.task, "conllu"):
        raise click.UsageError(f"a model for {predictor.task.name} gives no trees: name the file .jsonl")
    rows: list[Any] = [*texts, *lines]
    if file is not None:
        read = read_rows(found, file)
        faults = list(zip(read.rows, predictor.refusals([r.values for r in read.rows]), strict=True))
        rows = [r.values for r, fault in faults if fault is None]
        for bad in [*read.quarantined, *(Quarantined(r.file, r.line, fault, "") for r, fault in faults if fault)]:
            click.echo(f"left out: {bad.file}:{bad.line}: {bad.reason}", err=True)
    answers = [{"text": r, **a} if isinstance(r, str) else {"row": r, **a} for r, a in zip(rows, predictor.predict(rows), strict=True)]
    if predictor.truncated:
        click.echo(f"{predictor.truncated} of {len(rows)} texts are cut to {predictor.card['max_length']} tokens", err=True)
    if output is None:
        for answer in answers:
            click.echo(json.dumps(answer, ensure_ascii=False, default=str))
        return
    from luthier.security.artifacts import write_jsonl, write_text

    if trees:
        write_text(output, predictor.task.conllu(rows, answers))
    else:
        write_jsonl(output, answers)
    click.echo(f"{len(answers)} predictions in {output}", err=True)


def _standard_input() -> list[Any]:
    """The lines of standard input: JSON objects where they are, else texts."""
    if sys.stdin.isatty():
        return []
    data = sys.stdin.buffer.read()
    if not data.strip():
        return []
    text, note = decode(data, Path("standard input"))
    if note:
        click.echo(f"standard input: {note}", err=True)
    return [_line(line) for line in text.split("\n") if line.strip()]


def _line(line: str) -> Any:
    if line.lstrip().startswith("{"):
        try:
            return json.loads(line)
        except ValueError:
            pass
    return line.rstrip("\r")
