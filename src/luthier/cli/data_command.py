"""`luthier data ...`: one file a subcommand in `cli/data/`, loaded when it is called."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "report": "Say what data files hold, on one page.",
    "card": "Write a data card: licence, source, personal data, hurtful words, who is talked about.",
    "clean": "Read files of any format, clean their rows, and write them to a new folder.",
    "label": "Label texts, alone or with others; see how far people agree; export what trains.",
    "split": "Share rows out to train, validation and test, with nothing leaking between them.",
    "quality": "Find wrong labels, backdoors, shortcuts and outliers, with reasons, worst first.",
    "synthesize": "Make rows with a model: tasks, questions, rare classes, preference pairs.",
    "augment": "Make further training rows of a file: noise, synonyms, paraphrases, and more.",
}


class Lazy(click.Group):
    """Subcommands by name; a subcommand's module is imported when it runs."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            from luthier.registry import nearest

            guess = nearest(name, COMMANDS)
            ctx.fail(f"no command {name!r}" + (f"; did you mean {guess}?" if guess else ""))
        return importlib.import_module(f"luthier.cli.data.{name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.command(name="data", cls=Lazy)
def command() -> None:
    """The data workshop: everything that is done to data before training. Originals are never changed."""
