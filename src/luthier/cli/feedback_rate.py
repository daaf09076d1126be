"""`luthier feedback MODEL --prompts FILE`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from luthier.cli.options import login, model_argument, model_source, runs_option, sampling_of, sampling_options, store_option


@click.command(name="rate")
@model_argument
@click.option("--prompts", type=click.Path(path_type=Path), help="Prompts: one a line in a text file, or a column of texts or messages.")
@click.option("--column", help="The column of the prompts; found by its name where not given.")
@click.option("--against", metavar="MODEL", help="Compare with this model; two answers of one where not given.")
@click.option("--annotator", help="Who judges; the login name where not given.")
@store_option
@sampling_options
@runs_option
def command(
    model: str,
    prompts: Path | None,
    column: str | None,
    against: str | None,
    annotator: str | None,
    store: Path,
    root: Path,
    **sampling: object,
) -> None:
    """Judge pairs of answers of MODEL (a run, a folder or an alias such as starter), side by side in an order by chance.

    Keys: 1 or 2 is better, t tie, s skip, e edit, b back, q quit. What was judged is kept at once and not asked again;
    a second person (--annotator) is shown the same answers. Input may be a pipe: a line for each key.
    """
    if prompts is None:
        from luthier.cli.feedback_command import COMMANDS
        from luthier.registry import nearest

        guess = nearest(model, COMMANDS)
        raise click.UsageError("give a file of prompts with --prompts" + (f"; or did you mean luthier feedback {guess}?" if guess else ""))
    from luthier.cli.judging import agreement_lines, judge
    from luthier.feedback.session import Session
    from luthier.feedback.store import Store
    from luthier.workflow.answers import Duel, read_prompts

    asked = read_prompts(prompts, column=column)
    first, second = _author(model, root), _author(against, root) if against else None
    for note in asked.notes:
        click.echo(f"· {note}", err=True)
    with Store(store) as opened:
        duel = Duel(opened, first, second, sampling_of(sampling))
        pairs = duel.pairs(asked.prompts)
        session = Session(opened, pairs, annotator=annotator or login(), run=first.name)
        try:
            judged = judge(session, total=len(asked.prompts))
        finally:
            pairs.close()  # what is being written is kept too
        for author in {id(a): a for a in duel.authors}.values():
            for note in author.notes:
                click.echo(f"· {note}", err=True)
        _sum_up(session, judged, duel.failed, len(asked.prompts), store)
        for line in agreement_lines(opened):
            click.echo(line)


def _author(name: str, root: Path) -> Any:
    """A model under the name that people know: of a run its id."""
    from luthier.workflow.answers import Author

    source = model_source(name, root)
    folder = source.local.parent if source.local is not None else None
    return Author(folder.name if folder is not None and (folder / "run.json").is_file() else source.name, source)


def _sum_up(session: Any, judged: int, failed: dict[str, str], total: int, store: Path) -> None:
    from luthier.errors import LuthierError

    dropped = {
        "the two answers are the same": session.identical,
        "an answer is empty": session.empty,
        **{f"cannot be answered: {why}": list(failed.values()).count(why) for why in sorted(set(failed.values()))},
    }
    left_out = [f"{count} left out: {why}" for why, count in dropped.items() if count]
    if sum(dropped.values()) == total:
        raise LuthierError(
            f"no pair to judge in {total} prompts: {'; '.join(left_out)}",
            where="--prompts",
            remedy="raise --temperature, or give other prompts",
        )
    left = total - session.earlier - sum(dropped.values()) - judged
    earlier = f", {session.earlier} before" if session.earlier else ""
    click.echo(f"judged    {judged} now{earlier}, by {session.annotator}; kept in {store}")
    for line in left_out:
        click.echo(f"          {line}")
    click.echo(
        f"          {left} to go: the same command goes on" if left > 0 else f"next      luthier feedback export {store} pairs.jsonl"
    )
