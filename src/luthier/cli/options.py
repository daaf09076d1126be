"""Arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from luthier.runs.store import Run

recipe_argument = click.argument("recipe", type=click.Path(path_type=Path))
run_argument = click.argument("run")
set_option = click.option(
    "--set", "overrides", multiple=True, metavar="PATH=VALUE", help="Override a value, e.g. training.learning_rate=3e-4."
)
runs_option = click.option(
    "--runs", "root", type=click.Path(path_type=Path), default=Path("runs"), show_default=True, help="Folder of runs."
)
store_option = click.option(
    "--store", type=click.Path(path_type=Path), default=Path("feedback.db"), show_default=True, help="The store of what people said."
)
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


accept_option = click.option(
    "--accept", "accepted", multiple=True, metavar="FINDING", help="Go on in spite of a finding of check, by name."
)


def accepting(names: tuple[str, ...]) -> tuple[str, ...]:
    """The override that accepts findings; nothing for none."""
    return (f"data.accept=[{', '.join(names)}]",) if names else ()


model_argument = click.argument("model")

_SAMPLING = (
    click.option("--max-new-tokens", type=click.IntRange(1), default=None, help="Longest answer in tokens; 128 where not given."),
    click.option("--temperature", type=click.FloatRange(0), default=0.7, show_default=True, help="0 is greedy."),
    click.option("--top-k", type=click.IntRange(1), default=None, help="Draw from the k likeliest tokens."),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=None, help="Draw from the likeliest that make up p."),
    click.option("--min-p", type=click.FloatRange(0, 1), default=None, help="Leave out tokens below this share of the likeliest."),
    click.option(
        "--repetition-penalty", type=click.FloatRange(0, min_open=True), default=1.0, show_default=True, help="Above 1: repeat less."
    ),
    click.option("--stop", multiple=True, help="Stop at this text; give it several times for several."),
    click.option("--seed", type=int, default=None, help="The same seed gives the same answer."),
)


def sampling_options(command: Any) -> Any:
    """The options of drawing tokens."""
    for option in reversed(_SAMPLING):
        command = option(command)
    return command


def sampling_of(options: dict[str, Any], **more: Any) -> Any:
    """A `Sampling` of the options; `max_new_tokens` is the default where none was given."""
    from luthier.inference.generate import Sampling

    given = {k: v for k, v in options.items() if v is not None}
    return Sampling(**{**given, "stop": tuple(options.get("stop") or ()), **more})


def model_source(name: str, root: Path) -> Any:
    """The files of a model: of a run, where the name is one's, else of a folder, an alias or a hub id."""
    from luthier.errors import RunError
    from luthier.models.source import NAMES, Source, is_model, resolve
    from luthier.recipe.sections import Model

    if name in NAMES:
        return resolve(Model(name=name))
    path = Path(name).expanduser()
    if not is_model(path):
        try:
            run = the_run(name, root)
        except RunError:
            if path.exists() or "/" not in name or name.startswith((".", "/", "~")):
                raise
        else:
            if not is_model(run.model):
                raise RunError("has no model yet", where=str(run.folder), remedy=f"luthier resume {run.folder}")
            return Source(str(run.model), str(run.model), None)
    return resolve(Model(name=name))


def writer_of(name: str, root: Path) -> Any:
    """A model ready to write."""
    from luthier.inference.writer import Writer

    writer = Writer(model_source(name, root))
    for note in writer.loaded.notes:
        click.echo(f"· {note}", err=True)
    return writer


def the_run(name: str, root: Path) -> Run:
    """The run a user names: a folder, an id, the beginning of one, or `latest`."""
    from luthier.runs.store import find

    return find(name, root=root)


def login() -> str:
    """The login name, for an annotator who gave none."""
    import getpass

    from luthier.errors import LuthierError

    try:
        return getpass.getuser()
    except (KeyError, OSError):
        raise LuthierError("the login name cannot be told", where="annotator", remedy="say who judges: --annotator ada") from None


def print_json(value: Any) -> None:
    """Indented JSON on standard output."""
    import json

    from luthier.security.artifacts import finite

    click.echo(json.dumps(finite(value), indent=1, ensure_ascii=False, default=str))


def adapter_folder(name: str, root: Path) -> Path:
    """The model folder of a run, or a folder of adapters."""
    if (Path(name) / "adapter_config.json").is_file():
        return Path(name)
    return the_run(name, root).model
