"""`luthier runs`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import json_option, print_json, runs_option


@click.command(name="runs")
@runs_option
@json_option
def command(root: Path, as_json: bool) -> None:
    """List the runs of a folder, newest first."""
    import datetime

    from luthier.runs.store import Registry

    rows = Registry(root).rows() if root.is_dir() else []
    if as_json:
        print_json(rows)
        return
    if not rows:
        click.echo(f"no runs in {root}; make one with luthier demo or luthier train RECIPE")
    for row in rows:
        started = datetime.datetime.fromtimestamp(row["started"] or 0).strftime("%Y-%m-%d %H:%M")
        score = f"{row['metric']} {row['value']:.4f} [{row['low']:.4f}, {row['high']:.4f}]" if row["value"] is not None else ""
        parent = f"from {row['parent']}" if row["parent"] else ""
        click.echo(f"{row['id']:<32}{row['status']:<12}{started:<18}{row['model'] or '':<20.20}{score}  {parent}".rstrip())
