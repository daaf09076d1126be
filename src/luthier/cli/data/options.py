"""Arguments that the subcommands of `luthier data` share: which files, how they are read, which stages."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from luthier.data.sources.source import Reading
    from luthier.data.stream import Stream
    from luthier.recipe.stages.options import StageOptions

FORMATS = ["auto", "csv", "tsv", "jsonl", "json", "parquet", "arrow", "excel", "text", "labelled", "conll", "conllu"]
_READING = (
    click.argument("files", nargs=-1, required=True, metavar="FILE..."),
    click.option("--format", "format", type=click.Choice(FORMATS), default="auto", show_default=True, help="Of the files."),
    click.option("--encoding", default="auto", show_default=True, help="Of text files; auto detects it."),
    click.option("--columns", default=None, metavar="A,B,C", help="Column names, for files without a header line."),
    click.option("--separator", default=None, help="What stands between the documents of a text file."),
    click.option("--text", default="text", show_default=True, help="The column with the text; several with commas between."),
    click.option("--query", default=None, metavar="SQL", help="What a database (FILE: a SQLAlchemy URL) is asked."),
    click.option("--sheet", default=None, help="Of a spreadsheet; the first where not given."),
)
out_option = click.option("--out", type=click.Path(path_type=Path), required=True, help="Folder for the result; it must not be there yet.")
to_option = click.option(
    "--to",
    "to",
    type=click.Choice(["parquet", "arrow", "jsonl", "csv"]),
    default="parquet",
    show_default=True,
    help="Format of the result.",
)


def reading_options(command: Any) -> Any:
    """The files and how they are read."""
    for option in reversed(_READING):
        command = option(command)
    return command


def texts_of(text: str) -> list[str]:
    """The columns of `--text`."""
    return [name.strip() for name in text.split(",") if name.strip()]


def asked(name: str) -> bool:
    """Whether a parameter of the command stands on the command line."""
    return click.get_current_context().get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def refuse_unread(*names: str, when: str) -> None:
    """Raise UsageError for a parameter that was given and would be read by nobody."""
    for parameter in click.get_current_context().command.params:
        if parameter.name in names and asked(parameter.name):
            raise click.UsageError(f"{parameter.opts[0]} is not read {when}")


def texts_in(stream: Stream, text: str, *, where: str = "--text") -> list[str]:
    """The columns of `--text`. Raises DataError for one that was asked for and is not there; the default may be missing."""
    from luthier.data.stages.texts import need

    names = texts_of(text)
    if asked("text"):
        need(stream.schema, names, stage=where)
    return names


def reading_of(options: dict[str, Any]) -> Reading:
    """How the options say that files are read."""
    from luthier.data.sources.source import Reading

    columns = options["columns"]
    return Reading(
        format=options["format"],
        encoding=options["encoding"],
        columns=[c.strip() for c in columns.split(",")] if columns else None,
        separator=_unescaped(options["separator"]),
        text=(texts_of(options["text"]) or ["text"])[0],
        query=options["query"],
        sheet=options["sheet"],
    )


def _unescaped(separator: str | None) -> str | None:
    r"""What `--separator` means: `\n\n` is an empty line."""
    if not separator or not separator.isascii():
        return separator
    try:
        return separator.encode().decode("unicode_escape")
    except UnicodeDecodeError as error:
        raise click.UsageError(f"--separator {separator!r}: {error.reason}; a backslash itself is written \\\\") from None


def stream_of(options: dict[str, Any]) -> Stream:
    """The stream that the options mean; how each file was understood is shown on standard error."""
    from luthier.data.stream import open_stream

    stream = open_stream(options["files"], reading_of(options))
    for source in stream.sources[:10]:
        click.echo(source.describe(), err=True)
    if len(stream.sources) > 10:
        click.echo(f"and {len(stream.sources) - 10} more files", err=True)
    for note in stream.notes[:10]:
        click.echo(f"· {note}", err=True)
    return stream


def stages_of(texts: tuple[str, ...]) -> list[StageOptions]:
    """The stages that `--stage` names: `length at_least=3 columns=[title]`. Raises RecipeError for what is none."""
    import yaml

    from luthier.errors import Fault, RecipeError
    from luthier.recipe import load_recipe

    sections: list[Any] = []
    for text in texts:
        try:
            name, *pairs = shlex.split(text) or [""]
        except ValueError as error:
            raise RecipeError([Fault(f"cannot be taken apart: {error}", f"--stage {text!r}", "close the quote")]) from None
        section: dict[str, Any] = {"type": name}
        for pair in pairs:
            key, equals, value = pair.partition("=")
            if not equals:
                raise RecipeError([Fault(f"{pair!r} is not of the form key=value", f"--stage {text!r}")])
            try:
                section[key] = yaml.safe_load(value)
            except yaml.YAMLError:
                raise RecipeError([Fault(f"{value!r} is no value", f"--stage {text!r}", "columns=[title,text], or at_least=3")]) from None
        sections.append(section)
    return load_recipe({"data": {"train": "rows", "clean": sections}}).recipe.data.clean
