"""`luthier fill RUN "text with a [MASK]"`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import json_option, model_argument, model_source, print_json, runs_option


@click.command(name="fill")
@model_argument
@click.argument("texts", nargs=-1, required=True)
@click.option("--count", type=click.IntRange(1, 50), default=5, show_default=True, help="Words for each blank.")
@runs_option
@json_option
def command(model: str, texts: tuple[str, ...], count: int, root: Path, as_json: bool) -> None:
    """Fill in the blanks of TEXTS with MODEL (a run, a folder or an alias such as minilm); a blank is [MASK].

    A way to see what a model knows, and to test prompts.
    """
    from luthier.inference.fill import fill
    from luthier.models import host, load
    from luthier.models.heads import Head
    from luthier.recipe.sections import Model

    source = model_source(model, root)
    host.set_up()
    loaded = load.load(source, Model(name=source.name), head=lambda config: Head("masked"))
    for note in loaded.notes:
        click.echo(f"note      {note}", err=True)
    mask = str(loaded.tokenizer.mask_token)
    answers = fill(loaded, [t.replace("[MASK]", mask) for t in texts], count=count)
    if as_json:
        print_json([{"text": t, "blanks": a} for t, a in zip(texts, answers, strict=True)])
        return
    for text, blanks in zip(texts, answers, strict=True):
        click.secho(text, bold=True)
        for blank in blanks:
            click.echo("  " + "  ".join(f"{w['word']} {w['probability']:.0%}" for w in blank))
