"""`luthier data ...`: one file a subcommand in `cli/data/`, loaded when it is called."""

from __future__ import annotations

import click

from luthier.cli.lazy import Lazy

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


@click.group(name="data", cls=Lazy, table=COMMANDS, places="luthier.cli.data.{}")
def command() -> None:
    """The data workshop: everything that is done to data before training. Originals are never changed."""
