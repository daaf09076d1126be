"""`luthier init FILE`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command(name="init")
@click.argument("file")
@click.option("--out", type=click.Path(path_type=Path), default=Path("recipe.yaml"), show_default=True, help="The recipe.")
@click.option("--model", help="Alias, Hugging Face id or folder; the shipped one that suits the task where not given.")
@click.option("--text", default="", help="Column of the texts (two with a comma between: a pair), where the guess is wrong.")
@click.option("--label", help="Column of the labels, or of what is to be written, where the guess is wrong.")
@click.option("--force", is_flag=True, help="Write over a recipe that is there.")
def command(file: str, out: Path, model: str | None, text: str, label: str | None, force: bool) -> None:
    """Write a commented recipe for FILE: task, columns, model, method and limits, with the reason for each."""
    from luthier.cli.data.options import texts_of
    from luthier.errors import SpaceError
    from luthier.security.artifacts import write_text
    from luthier.workshop.first_recipe import first_recipe, told

    if out.exists() and (not force or out.is_dir() or out.resolve() == Path(file).resolve()):
        remedy = "give another file with --out" + ("" if force else ", or write over it with --force")
        raise SpaceError("is there already", where=str(out), remedy=remedy)
    first = first_recipe(file, folder=out.resolve().parent, text=texts_of(text), label=label, model=model)
    write_text(out.resolve(), first.text)
    click.echo(f"written to {out}: {first.guess.task} ({first.guess.kind})\n")
    for path, value, why in told(first):
        click.echo(f"  {path}: {value}\n      {why}")
    if first.guess.others:
        click.echo(f"\nor      {'; or '.join(first.guess.others)}")
    click.echo(f"\nnext    luthier check {out}")
