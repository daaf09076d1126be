"""`luthier data label stats [STORE]`."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import click

from luthier.cli.options import json_option, print_json, store_option

SHOWN = 20
"""Annotators with a line of their own."""


@click.command(name="stats")
@click.argument("named", required=False, metavar="[STORE]", type=click.Path(path_type=Path))
@click.option("--question", help="Which question, where the store has several.")
@store_option
@json_option
def command(named: Path | None, question: str | None, store: Path, as_json: bool) -> None:
    """Say how far annotators agree, how fast each works and what labels they give; show nothing of what they read."""
    from luthier.feedback.store import Store
    from luthier.workshop.labelling.agreement import agreements, annotators
    from luthier.workshop.labelling.opinions import poll

    with Store(named or store, create=False) as opened:
        found = poll(opened, named=question)
    people, agreed = annotators(found.opinions), agreements(found.opinions, found.question.form)
    how = Counter(v.how if (v := o.verdict) is not None else "passed over" for o in found.opinions)
    if as_json:
        people_, agreed_ = [p._asdict() for p in people], [a._asdict() for a in agreed]
        print_json({"question": found.question.name, "items": len(found.opinions), "how": how, "annotators": people_, "agreement": agreed_})
        return
    told = ", ".join(f"{n} {name}" for name, n in how.most_common())
    click.echo(f"question  {found.question.name} ({found.question.form}): {len(found.opinions)} rows: {told}")
    _people(people, found.question.labels)
    for one in agreed:
        click.echo(_line(one))
    if how["tie"]:
        click.echo(f"next      luthier data label adjudicate {named or store}: {how['tie']} ties")


def _people(people: list[Any], labels: tuple[str, ...]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, header_style="bold")
    table.add_column("")
    for title in ("labelled", "skipped", "seconds", "an hour", "shared", "with the rest"):
        table.add_column(title, justify="right", no_wrap=True)
    ranked = sorted(people, key=lambda p: -p.answers)
    for one in ranked[:SHOWN]:
        seconds = "" if one.seconds is None else f"{one.seconds:.1f}"
        hourly = "" if one.an_hour is None else f"{one.an_hour:.0f}"
        along = "" if one.with_others is None else f"{one.with_others:.0%}"
        table.add_row(one.name, str(one.answers), str(one.skipped or ""), seconds, hourly, str(one.shared or ""), along)
    Console(highlight=False, markup=False).print(table)
    for one in ranked[:SHOWN] if labels else []:
        given = ", ".join(f"{label} {share:.0%}" for label, share in list(one.labels.items())[:5])
        more = f", {len(one.labels) - 5} more" if len(one.labels) > 5 else ""
        click.echo(f"labels    {one.name}: {given or 'none'}{more}")
    if len(ranked) > SHOWN:
        click.echo(f"          and {len(ranked) - SHOWN} more")


def _line(found: Any) -> str:
    names = ", ".join(found.annotators) if len(found.annotators) <= 4 else f"{len(found.annotators)} people"
    value = "not to be told from chance: all say one and the same"
    if found.value is not None:
        value = f"{found.value['value']:.2f} [{found.value['low']:.2f}, {found.value['high']:.2f}]"
    rows = f"{found.items} row" + ("s" if found.items != 1 else "")
    return f"agreement {found.coefficient} {value}, the same in {found.same:.0%}, {rows} ({names})"
