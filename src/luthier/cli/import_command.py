"""`luthier import FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from luthier.recipe.imports.draft import Left


@click.command(name="import")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), default=Path("recipe.yaml"), show_default=True, help="The recipe.")
@click.option("--from", "tool", type=click.Choice(["axolotl", "llamafactory", "trl", "openai"]), default=None, help="Whose file it is.")
def command(file: Path, out: Path, tool: str | None) -> None:
    """Turn FILE, of Axolotl, LLaMA-Factory, TRL or OpenAI, into a recipe; say what became of every key."""
    from luthier.errors import SpaceError
    from luthier.recipe.imports.recognise import import_file
    from luthier.security.artifacts import write_text

    if out.exists():
        raise SpaceError("is there already", where=str(out), remedy="give another file with --out")
    found = import_file(file, tool=tool, folder=out.resolve().parent)  # type: ignore[arg-type]
    write_text(out.resolve(), found.text)
    click.echo(f"written to {out}: {found.taken} values from a file of {found.tool}")
    _show("to fill in", found.to_fill)
    _show("not taken over", found.lost)
    if found.unneeded:
        click.echo(f"\nnot needed here\n  {', '.join(found.unneeded)}")
    click.echo(f"\nnext    luthier check {out}")


def _show(title: str, items: tuple[Left, ...]) -> None:
    if items:
        click.echo(f"\n{title}")
    for left in items:
        click.echo(f"  {left.key}" + ("" if left.value is None else f": {left.value}"))
        click.echo(f"    {left.why}")
