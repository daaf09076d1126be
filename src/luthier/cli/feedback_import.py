"""`luthier feedback import LOGS`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import store_option


@click.command(name="import")
@click.argument("logs", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--rules", default="", metavar="A,B", help="Which of thumbs, numbers, edits, regenerated; all where not given.")
@click.option("--annotator", help="Whose words these are; each row's own user, as a hash, where not given.")
@store_option
def command(logs: tuple[Path, ...], rules: str, annotator: str | None, store: Path) -> None:
    """Put what readers did in chat LOGS (rated, edited, asked for anew) into the store, by rules that are shown."""
    from luthier.feedback.store import Store
    from luthier.workflow.behaviour import RULES, chosen_rules, import_logs

    chosen = chosen_rules([r.strip() for r in rules.split(",") if r.strip()])
    found = import_logs(logs, rules=chosen, annotator=annotator)
    with Store(store) as opened:
        found.keep(opened)
    for note in found.notes:
        click.echo(f"· {note}", err=True)
    click.echo(f"{'rule':<13}{'in':>7}{'out':>7}   {'means'}")
    for rule, books in found.books.items():
        click.echo(f"{rule:<13}{books.found:>7}{books.kept:>7}   {RULES[rule]}")
        for why, count in books.dropped.items():
            click.echo(f"{'':<13}{count:>7} dropped   {why}")
    dropped = sum(found.dropped.values())
    click.echo(f"rows      {found.rows} in: {found.kept} kept, {dropped} dropped, {len(found.quarantined)} quarantined")
    for why, count in found.dropped.items():
        click.echo(f"          {count} dropped: {why}")
    for bad in found.quarantined[:5]:
        click.echo(f"          quarantined: {Path(bad.file).name}:{bad.line}: {bad.reason}")
    if len(found.quarantined) > 5:
        click.echo(f"          and {len(found.quarantined) - 5} more")
    again = f", {found.repeated} were there already" if found.repeated else ""
    click.echo(f"kept in   {store}: {found.entries} entries{again}")
