"""`luthier feedback stats [STORE]`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luthier.cli.options import json_option, print_json, store_option

SHOWN = 20
"""People with a line of their own."""


@click.command(name="stats")
@click.argument("named", required=False, metavar="[STORE]", type=click.Path(path_type=Path))
@store_option
@json_option
def command(named: Path | None, store: Path, as_json: bool) -> None:
    """Say who judged how much and how fast, how far people agree, and which model they like better; show nothing of what they read."""
    from luthier.cli.judging import agreement_lines
    from luthier.feedback import Store
    from luthier.workflow.opinions import opinions

    with Store(named or store, create=False) as opened:
        found = opinions(opened)
        if as_json:
            print_json({**found._asdict(), **{n: [x._asdict() for x in getattr(found, n)] for n in ("people", "agreement", "contests")}})
            return
        click.echo(f"store     {named or store}: {found.entries} entries about {found.items} items")
        _people(found.people)
        for line in agreement_lines(opened):
            click.echo(line)
    for contest in found.contests:
        rate = contest.rate
        click.echo(
            f"liked     {contest.first} over {contest.second}: {rate['value']:.0%} [{rate['low']:.0%}, {rate['high']:.0%}], "
            f"{contest.wins} wins, {contest.losses} losses, {contest.ties} ties"
        )


def _people(people: list[Any]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    ranked = sorted(people, key=lambda p: -(p.choices + p.ties + p.skips + p.edits + p.ratings + p.labels))
    columns = {
        **{n: [str(getattr(p, n) or "") for p in ranked] for n in ("choices", "ties", "skips", "edits", "ratings", "labels", "corrected")},
        "seconds": ["" if p.seconds is None else f"{p.seconds:.1f}" for p in ranked],
        "first shown": [f"{p.first}/{p.decided}" if p.decided else "" for p in ranked],
    }
    columns = {title: cells for title, cells in columns.items() if any(cells)}
    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("")
    for title in columns:
        table.add_column(title, justify="right", no_wrap=True)
    for one, *cells in list(zip((p.annotator for p in ranked), *columns.values(), strict=True))[:SHOWN]:
        table.add_row(one, *cells)
    Console(highlight=False, markup=False).print(table)
    if len(ranked) > SHOWN:
        click.echo(f"          and {len(ranked) - SHOWN} more")
