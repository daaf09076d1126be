"""`luthier data label adjudicate [STORE]`."""

from __future__ import annotations

from pathlib import Path

import click

from luthier.cli.options import login, store_option


@click.command(name="adjudicate")
@click.argument("named", required=False, metavar="[STORE]", type=click.Path(path_type=Path))
@click.option("--question", help="Which question, where the store has several.")
@click.option("--labels", metavar="A,B,C", help="Further labels that nobody gave so far.")
@click.option("--annotator", help="Who decides; the login name where not given.")
@click.option("--guidelines", type=click.Path(path_type=Path), help="A text or Markdown file that is shown beside the rows.")
@click.option("--again", is_flag=True, help="Show decided rows too.")
@store_option
def command(
    named: Path | None, question: str | None, labels: str | None, annotator: str | None, guidelines: Path | None, again: bool, store: Path
) -> None:
    """Decide the rows on which annotators differ: each is shown with all opinions. Opinions stay; a decision counts before them."""
    from dataclasses import replace

    from luthier.cli.data.labelling import label, read_guidelines, read_labels
    from luthier.feedback.store import Store
    from luthier.workshop.labelling.adjudication import Adjudication
    from luthier.workshop.labelling.opinions import poll

    aside = read_guidelines(guidelines) if guidelines else ""
    with Store(named or store, create=False) as opened:
        found = poll(opened, named=question)
        if labels:
            more = dict.fromkeys((*found.question.labels, *read_labels(labels)))
            found = found._replace(question=replace(found.question, labels=tuple(more)))
        session = Adjudication(opened, found, annotator=annotator or login(), again=again)
        label(session, aside=aside)
    click.echo(f"decided   {session.decided} of {len(session.rows)} rows on which annotators differ; kept in {named or store}")
