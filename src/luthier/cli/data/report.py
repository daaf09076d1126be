"""`luthier data report FILE ...`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luthier.cli.data.options import reading_of, reading_options, texts_of
from luthier.cli.options import json_option, print_json

COMMANDLINE = click.core.ParameterSource.COMMANDLINE
DEFAULT = Path("report.html")


@click.command(name="report")
@reading_options
@click.option("--model", help="Lengths are told in its tokens; the shipped one that suits the task where not given.")
@click.option("--out", type=click.Path(path_type=Path), help=f"The page.  [default: {DEFAULT}, and none with --json]")
@click.option("--label", help="Column of the labels, where the guess is wrong.")
@click.option("--quality", is_flag=True, help="Also look for wrong labels, backdoors and outliers: vectors of a model, a minute or more.")
@json_option
@click.pass_context
def command(
    context: click.Context, /, model: str | None, out: Path | None, label: str | None, quality: bool, as_json: bool, **options: Any
) -> None:
    """Say what data FILES hold, on one page: columns, task, lengths, labels, repeats, languages, personal data, samples.

    Give training and test files together to see what stands in both.
    """
    from luthier.errors import SpaceError
    from luthier.security.artifacts import write_text
    from luthier.workshop.page import page
    from luthier.workshop.report import report

    files: tuple[str, ...] = options["files"]
    given = {n for n in ("format", "encoding", "columns", "separator", "query", "sheet") if context.get_parameter_source(n) is COMMANDLINE}
    text = texts_of(options["text"]) if context.get_parameter_source("text") is COMMANDLINE else ()
    target = out if out is not None or as_json else DEFAULT
    if target is not None and target.exists() and any(target.resolve() == Path(f).resolve() for f in files):
        raise SpaceError("is one of the files to report on", where=str(target), remedy="give another file with --out")
    facts = report(files, reading=reading_of(options) if given else None, text=text, label=label, model=model, quality=quality)
    if target is not None:
        write_text(target.resolve(), page(facts))
    if as_json:
        print_json(facts)
        return
    for note in facts["notes"][:10]:
        click.echo(f"· {note}", err=True)
    _show(facts)
    for line in facts["not_looked"] if quality else ():
        click.echo(f"not seen  {line}")
    click.echo(f"page      {target}")


def _show(facts: dict[str, Any]) -> None:
    from luthier.workshop.page import warnings

    rows, task, lengths = facts["rows"], facts["task"], facts["lengths"]
    click.echo(f"rows      {rows['usable']:,} in {facts['columns_in_all']:,} columns, {rows['quarantined']:,} could not be read")
    click.echo(f"task      {task['name']} ({task['kind']}): {task['because']}")
    if facts["classes"]:
        shown = ", ".join(f"{name} {n}" for name, n in list(facts["classes"].items())[:6])
        click.echo(f"labels    {len(facts['classes'])}: {shown}" + (" …" if len(facts["classes"]) > 6 else ""))
    if lengths["tokens"]:
        reads = f", which reads {lengths['reads']:,}" if lengths["reads"] else ""
        spread = lengths["tokens"]
        click.echo(f"tokens    {spread['median']:.0f} in the middle, {spread['most']:.0f} at most, by {lengths['model']}{reads}")
    for line in warnings(facts):
        click.echo(f"note      {line}")
