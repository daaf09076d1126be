"""`luthier data card FILE...`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from luthier.cli.data.options import asked, out_option, reading_options, refuse_unread, stream_of, texts_in


@click.command(name="card")
@reading_options
@click.option("--name", default=None, help="What the data set is called; the first file's name where not given.")
@click.option("--license", "licence", default=None, help="Its licence, as SPDX writes it: CC-BY-4.0.")
@click.option("--source", default=None, help="Where it comes from: an address, a paper, a person.")
@click.option("--description", default=None, help="A sentence about it.")
@click.option("--label", default=None, help="Column of labels, to be set against who is talked about.")
@click.option("--names", default=None, help="Find names of persons by a tagging run's folder, or a file with a name a line.")
@click.option("--toxicity", type=click.Path(path_type=Path), default=None, help="Folder of a classification run that knows toxic texts.")
@click.option("--toxic-label", default="toxic", show_default=True, help="The label of that run which says so.")
@click.option(
    "--words", type=click.Path(path_type=Path, dir_okay=False), default=None, help="File of hurtful words of your own, one a line."
)
@out_option
def command(out: Path, toxicity: Path | None, toxic_label: str, words: Path | None, **told: Any) -> None:
    """Write a data card: licence, source, personal data, hurtful words and who is talked about, with an audit by file and line.

    A FILE is what `luthier data clean` takes; nothing is changed. The folder gets README.md, card.json and audit.jsonl.
    """
    from luthier.data.card import Stated, markdown, survey
    from luthier.data.ethics import Ethics
    from luthier.recipe.stages.privacy import PrivacyOptions
    from luthier.security.artifacts import new_folder, write_json, write_text
    from luthier.workshop.privacy import judge, listed, privacy

    if toxicity is None:
        refuse_unread("toxic_label", when="without --toxicity")
    stream = stream_of(told)
    texts = texts_in(stream, told["text"])
    stated = Stated(told["name"] or Path(told["files"][0]).name, told["licence"], told["source"], told["description"])
    ethics = Ethics(judge(toxicity, toxic_label) if toxicity else None, listed(words) if words else None)
    finder = privacy(PrivacyOptions(action="report", names=told["names"]), stream.schema)
    with new_folder(out) as folder:
        with (folder / "audit.jsonl").open("w", encoding="utf-8") as file:
            card = survey(
                stream,
                stated,
                privacy=finder,
                ethics=ethics,
                label=told["label"],
                text=texts if asked("text") else None,
                audit=lambda line: file.write(json.dumps(line, ensure_ascii=False) + "\n"),
            )
        write_text(folder / "README.md", markdown(card))
        write_json(folder / "card.json", card.summary())
    click.echo(f"{card.rows:,} rows, personal data or secrets in {card.personal_rows:,} of them: {out / 'audit.jsonl'}")
    click.echo(f"card      {out / 'README.md'}")
