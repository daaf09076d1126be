"""`luthier feedback`: judging answers, and the store of what people said."""

from __future__ import annotations

import click

from luthier.cli.lazy import Lazy

COMMANDS = {
    "rate": "Judge pairs of a model's answers; what the name of a model alone means.",
    "import": "Put the ratings, edits and regenerations of chat logs into the store.",
    "export": "Write what people said as rows for training.",
    "stats": "Who said how much, how far people agree, which model they like better.",
}


class Feedback(Lazy):
    """Its commands; what is none of them, nor an option of help, is a model to be judged."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.table and args[0] not in ctx.help_option_names:
            args = ["rate", *args]
        return super().parse_args(ctx, args)


@click.group(name="feedback", cls=Feedback, table=COMMANDS, places="luthier.cli.feedback_{}")
def command() -> None:
    """Judge answers, and turn what people said into rows for training.

    `luthier feedback MODEL --prompts FILE` shows two answers at a time; see `luthier feedback rate --help`.
    """
