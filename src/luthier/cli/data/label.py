"""`luthier data label`: labelling in the terminal, and the labels of several people."""

from __future__ import annotations

import click

from luthier.cli.lazy import Lazy

COMMANDS = {
    "rows": "Label the rows of a file; what the name of a file alone means.",
    "adjudicate": "Decide the rows on which annotators differ.",
    "stats": "How far annotators agree, and how each of them works.",
    "import": "Bring labels from Label Studio or Argilla.",
    "export": "Write labels as rows for training, or for Label Studio or Argilla.",
}


class Label(Lazy):
    """Its commands; what is none of them, nor an option of help, is a file to be labelled."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.table and args[0] not in ctx.help_option_names:
            args = ["rows", *args]
        return super().parse_args(ctx, args)


@click.group(name="label", cls=Label, table=COMMANDS, places="luthier.cli.data.label_{}")
def command() -> None:
    """Label texts, alone or with others, and turn labels into rows for training.

    `luthier data label FILE --labels a,b,c` shows one row at a time; see `luthier data label rows --help`.
    """
