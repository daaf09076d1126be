"""`luthier predict RUN [TEXT]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from luthier.cli.options import run_argument, runs_option, the_run


@click.command(name="predict")
@run_argument
@click.argument("texts", nargs=-1)
@click.option("--file", "file", type=click.Path(path_type=Path), help="A data file (CSV, JSONL, ...) with the columns of training.")
@click.option("--output", type=click.Path(path_type=Path), help="Write JSONL here instead of printing it.")
@runs_option
def command(run: str, texts: tuple[str, ...], file: Path | None, output: Path | None, root: Path) -> None:
    """Predict with RUN for TEXTS, for --file, or for the lines of standard input; JSON lines come out.

    A line of standard input is a text, or a JSON object with the columns of training.
    """
    if texts and file:
        raise click.UsageError("give texts or --file, not both")
    found = the_run(run, root)
    rows = list(texts) if texts else _rows(file)
    if not rows:
        raise click.UsageError("nothing to predict: give texts, --file, or lines on standard input")
    from luthier.workflow.measure import predict

    answers = [{**_shown(r), **a} for r, a in zip(rows, predict(found, rows), strict=True)]
    if output is None:
        for answer in answers:
            click.echo(json.dumps(answer, ensure_ascii=False))
        return
    from luthier.security.artifacts import write_jsonl

    write_jsonl(output, answers)
    click.echo(f"{len(answers)} predictions in {output}", err=True)


def _rows(file: Path | None) -> list[Any]:
    if file is not None:
        from luthier.data.rows import read

        found = read(file)
        for bad in found.quarantined:
            click.echo(f"left out: {bad.file}:{bad.line}: {bad.reason}", err=True)
        return [row.values for row in found.rows]
    if sys.stdin.isatty():
        return []
    return [_line(line) for line in sys.stdin if line.strip()]


def _line(line: str) -> Any:
    if line.lstrip().startswith("{"):
        try:
            return json.loads(line)
        except ValueError:
            pass
    return line.rstrip("\n")


def _shown(row: Any) -> dict[str, Any]:
    return {"text": row} if isinstance(row, str) else dict(row)
