"""`luthier compare A B`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from luthier.cli.options import json_option, print_json, runs_option, the_run


@click.command(name="compare")
@click.argument("a")
@click.argument("b")
@click.option("--rows", default=10, show_default=True, help="How many differing rows to show.")
@json_option
@runs_option
def command(a: str, b: str, rows: int, as_json: bool, root: Path) -> None:
    """Compare run B with run A on the test rows of both: paired test, differences, differing rows."""
    first, second = the_run(a, root), the_run(b, root)
    from luthier.workflow.measure import compare

    result, differing = compare(first, second)
    if as_json:
        print_json({**asdict(result), "rows": differing})
        return
    click.echo(f"A {first.id}\nB {second.id}\n{result.n} shared test rows; B minus A, 95% paired bootstrap intervals")
    wide = max(20, 2 + max(map(len, result.differences)))
    for name, (value, low, high) in result.differences.items():
        click.echo(f"{name:<{wide}}{value:+.4f}  95% {low:+.4f} to {high:+.4f}")
    verdict = "unlikely to be chance" if result.p_value < 0.05 else "may well be chance"
    click.echo(
        f"A alone nearer on {result.a_only_right} rows, B alone on {result.b_only_right}: "
        f"p = {result.p_value:.4g} ({result.test}), {verdict}"
    )
    for row in differing[:rows]:
        click.echo(f"  gold {row['target']} | A {row['a']} | B {row['b']} | {row['text'][:90]}")
