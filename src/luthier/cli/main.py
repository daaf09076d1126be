"""The command line: one thin file a command, loaded when it is called.

`luthier --help` imports click and nothing heavy. Errors meant for people are printed without a
traceback, with exit code 1 (2 for wrong usage, 130 for an interrupted run).
"""

from __future__ import annotations

import sys

import click

from luthier.cli.lazy import Lazy

COMMANDS = {
    "demo": "Fine-tune a real model on shipped reviews, offline, in about a minute.",
    "init": "Write a recipe for a data file.",
    "import": "Turn another tool's configuration into a recipe.",
    "train": "Fine-tune by a recipe.",
    "data": "The data workshop: report on, clean and split files of any format.",
    "check": "Find what would fail, before it does.",
    "explain": "Show every value of a recipe and where it came from.",
    "resume": "Go on with a run that was stopped.",
    "continue": "Train a finished run's model longer, or on new data.",
    "predict": "Predict for a text, a file or standard input.",
    "generate": "Write with a model: answer or continue a prompt.",
    "chat": "Talk with a model in the terminal.",
    "fill": "Fill in the blanks of a text.",
    "feedback": "Judge answers, and turn what people said into training rows.",
    "retention": "Compare the ways against forgetting, and choose one.",
    "similar": "Find the rows of a file that are most like a query.",
    "evaluate": "Score a run, on its test part or on other files.",
    "compare": "Compare two runs on the same rows.",
    "reproduce": "Train a run again from its record and compare.",
    "export": "Write a plain model folder that needs no Luthier.",
    "eject": "Write a recipe as a script that trains without Luthier.",
    "merge": "Merge a run's adapters into a plain model folder.",
    "combine": "Combine the adapters of several runs into one.",
    "runs": "List the runs.",
    "doctor": "Say what this machine has, what is on, and why not.",
}


@click.group(
    cls=Lazy,
    table=COMMANDS,
    places="luthier.cli.{}_command",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(package_name="luthier")
def root() -> None:
    """Luthier fine-tunes language models: from raw data to a measured model.

    Start with `luthier demo`, then write a recipe and `luthier check` it.
    """


def main() -> None:
    """Entry point."""
    from luthier.errors import Interrupted, LuthierError

    try:
        root()
    except Interrupted as error:
        click.echo(f"\n{error}", err=True)
        sys.exit(130)
    except LuthierError as error:
        click.echo(f"{click.style('Error', fg='red', bold=True)}  {error}", err=True)
        sys.exit(1)
    except KeyboardInterrupt:
        click.echo("\nstopped", err=True)
        sys.exit(130)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()
