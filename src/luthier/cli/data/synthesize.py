"""`luthier data synthesize FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luthier.cli.options import json_option, print_json


@click.command(name="synthesize")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The new folder.")
@click.option(
    "--how",
    required=True,
    help="instruct, questions, rare or pairs, or with options: '{type: rare, examples: 8}'; or a YAML file of these.",
)
@click.option("--rows", type=click.IntRange(1), default=None, help="Rows that are wanted.")
@click.option("--model", default=None, help="A run, a folder or an alias that writes.")
@click.option("--url", default=None, help="Instead: an OpenAI-compatible endpoint, with the path: https://.../v1/chat/completions.")
@click.option("--name", default=None, help="With --url: the model's name there.")
@click.option("--token-env", default=None, help="With --url: the environment variable that holds the token.")
@click.option("--max-requests", type=click.IntRange(1), default=None, help="Budget: requests in all.")
@click.option("--max-total-tokens", type=click.IntRange(1), default=None, help="Budget: tokens in all.")
@click.option("--against", type=click.Path(path_type=Path), multiple=True, help="Further files whose texts are not made again.")
@json_option
def command(
    file: Path,
    out: Path,
    how: str,
    rows: int | None,
    model: str | None,
    url: str | None,
    name: str | None,
    token_env: str | None,
    max_requests: int | None,
    max_total_tokens: int | None,
    against: tuple[Path, ...],
    as_json: bool,
) -> None:
    """Make rows from FILE with a model: seed tasks (instruct), documents (questions), labelled rows (rare) or prompts (pairs).

    A run that was stopped goes on where it was when it is started again.
    """
    given: dict[str, Any] = {"rows": rows, "model": model, "max_requests": max_requests, "max_total_tokens": max_total_tokens}
    endpoint = {k: v for k, v in (("url", url), ("model", name), ("token_env", token_env)) if v is not None}
    if endpoint:
        given["endpoint"] = endpoint
    options = kind_of(how, {k: v for k, v in given.items() if v is not None})
    from luthier.workshop.synthesis.synthesize import journal_of, synthesize

    found = synthesize(file, options, out=out, against=against, listener=lambda text: click.echo(f"· {text}", err=True))
    figures = found.figures()
    if as_json:
        print_json(figures)
        return
    click.echo(f"read      {found.rows} rows, {found.unusable} of them without what it needs")
    click.echo(f"asks      {found.asks}: {found.answered} answered, {found.unreadable} of these without a row")
    for why, count in found.without.items():
        click.echo(f"          {count} without an answer: {why}")
    click.echo(f"rows      {figures['candidates']} candidates, {figures['kept']} kept; {found.stopped}")
    for filter, count in figures["dropped"].items():
        click.echo(f"          {count} dropped by {filter}")
    click.echo(f"spent     {found.requests} requests, {found.tokens} tokens at most")
    click.echo(f"written   {out / 'rows.jsonl'}; every answer is kept in {journal_of(out)}")


def kind_of(written: str, given: dict[str, Any]) -> Any:
    """The options of a kind as written on the command line. Raises RecipeError for what it does not have."""
    import yaml

    from luthier.cli.data.augment import options_of
    from luthier.recipe.synthesis.options import SynthesisOptions
    from luthier.registry import SYNTHESIS_OPTIONS

    path = Path(written)
    if path.suffix in (".yaml", ".yml"):
        from luthier.errors import DataError

        try:
            written = path.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else error.reason
            raise DataError(
                f"cannot be read: {why}", where=str(path), remedy="give a YAML file of options, or a kind by its name"
            ) from None
    try:
        value = yaml.safe_load(written)
    except yaml.YAMLError:
        value = written
    section = {"type": value} if isinstance(value, str) else value
    if isinstance(section, dict):
        own = section.get("endpoint", {})
        more = given | ({"endpoint": own | given["endpoint"] if isinstance(own, dict) else own} if "endpoint" in given else {})
        section = section | more
    return options_of(section, "kind of synthesis", SynthesisOptions, SYNTHESIS_OPTIONS, where="--how")
