"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from luthier.runs.store import Run

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
run_argument = click.argument("run")
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value, e.g. training.learning_rate=3e-4."
)
runs_option = click.option(
    "--runs", "root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of runs."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


def the_run(name: str, root: Path) -> Run:
    """The run a user names: a folder, an id, the beginning of one, or `latest`."""
    from luthier.runs.store import find

    return find(name, root=root)


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    import json

    from luthier.security.artifacts import finite

    click.echo(json.dumps(finite(value), indent=1, ensure_ascii=False, default=str))
